//! What two texts differ in, as a unified diff. Pure.

use std::fmt::Write as _;

/// Lines around a change that are shown with it.
const CONTEXT: usize = 3;
/// Beyond so many comparisons of lines all of them are shown as exchanged.
const MOST_COMPARISONS: usize = 1_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Line<'a> {
    Same(&'a str),
    Gone(&'a str),
    New(&'a str),
}

/// None: there was, or is, no such document. Empty where they say the same.
pub fn unified(path: &str, before: Option<&str>, after: Option<&str>) -> String {
    if before == after {
        return String::new();
    }
    let name = |side: &str, text: Option<&str>| match text {
        Some(_) => format!("{side}/{path}"),
        None => "/dev/null".to_owned(),
    };
    let mut out = format!("--- {}\n+++ {}\n", name("a", before), name("b", after));
    let (old, new) = (lines(before), lines(after));
    hunks(&compare(&old, &new), &mut out);
    out
}

fn lines(text: Option<&str>) -> Vec<&str> {
    text.map_or_else(Vec::new, |text| text.lines().collect())
}

/// The longest common sequence of lines decides; what both begin and end with is left out of that.
fn compare<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let is_equal = |(a, b): &(&&str, &&str)| a == b;
    let head = old.iter().zip(new).take_while(is_equal).count();
    let (old_rest, new_rest) = (&old[head..], &new[head..]);
    let backwards = old_rest.iter().rev().zip(new_rest.iter().rev());
    let tail = backwards.take_while(is_equal).count();
    let (old_rest, new_rest) = (
        &old_rest[..old_rest.len() - tail],
        &new_rest[..new_rest.len() - tail],
    );
    let mut lines: Vec<Line<'a>> = old[..head].iter().map(|line| Line::Same(line)).collect();
    match old_rest.len().saturating_mul(new_rest.len()) <= MOST_COMPARISONS {
        true => lines.extend(by_longest_common(old_rest, new_rest)),
        false => {
            lines.extend(old_rest.iter().map(|line| Line::Gone(line)));
            lines.extend(new_rest.iter().map(|line| Line::New(line)));
        }
    }
    let end = &old[old.len() - tail..];
    lines.extend(end.iter().map(|line| Line::Same(line)));
    lines
}

fn by_longest_common<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let width = new.len() + 1;
    // At [i][j]: of what follows old[i] and new[j].
    let mut longest = vec![0u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            longest[i * width + j] = match old[i] == new[j] {
                true => longest[(i + 1) * width + j + 1] + 1,
                false => longest[(i + 1) * width + j].max(longest[i * width + j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::with_capacity(old.len() + new.len());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push(Line::Same(old[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < old.len()
            && (j == new.len() || longest[(i + 1) * width + j] >= longest[i * width + j + 1])
        {
            lines.push(Line::Gone(old[i]));
            i += 1;
        } else {
            lines.push(Line::New(new[j]));
            j += 1;
        }
    }
    lines
}

fn hunks(lines: &[Line<'_>], out: &mut String) {
    let is_change = |line: &Line<'_>| !matches!(line, Line::Same(_));
    let mut at = 0;
    while let Some(offset) = lines[at..].iter().position(is_change) {
        let start = (at + offset).saturating_sub(CONTEXT).max(at);
        let mut end = at + offset + 1;
        // Changes with less than two contexts between them are one hunk.
        while let Some(gap) = lines[end..].iter().position(is_change)
            && gap <= 2 * CONTEXT
        {
            end += gap + 1;
        }
        let end = (end + CONTEXT).min(lines.len());
        hunk(lines, start, end, out);
        at = end;
    }
}

fn hunk(lines: &[Line<'_>], start: usize, end: usize, out: &mut String) {
    let count = |lines: &[Line<'_>]| {
        let old = lines.iter().filter(|line| !matches!(line, Line::New(_)));
        let new = lines.iter().filter(|line| !matches!(line, Line::Gone(_)));
        (old.count(), new.count())
    };
    let (before, inside) = (count(&lines[..start]), count(&lines[start..end]));
    let range = |before: usize, inside: usize| match inside {
        0 => format!("{before},0"),
        _ => format!("{},{inside}", before + 1),
    };
    let _ = writeln!(
        out,
        "@@ -{} +{} @@",
        range(before.0, inside.0),
        range(before.1, inside.1)
    );
    for line in &lines[start..end] {
        let (sign, text) = match line {
            Line::Same(text) => (' ', text),
            Line::Gone(text) => ('-', text),
            Line::New(text) => ('+', text),
        };
        let _ = writeln!(out, "{sign}{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_shown_with_three_lines_around_it() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        let new = "1\n2\n3\n4\nfive\n6\n7\n8\n9\n";
        assert_eq!(
            unified("routes/a", Some(old), Some(new)),
            "--- a/routes/a\n+++ b/routes/a\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n"
        );
        assert_eq!(unified("routes/a", Some(old), Some(old)), "");
    }

    #[test]
    fn what_comes_and_goes_has_no_other_side() {
        assert_eq!(
            unified("tuning", None, Some("a\nb\n")),
            "--- /dev/null\n+++ b/tuning\n@@ -0,0 +1,2 @@\n+a\n+b\n"
        );
        assert_eq!(
            unified("tuning", Some("a"), None),
            "--- a/tuning\n+++ /dev/null\n@@ -1,1 +0,0 @@\n-a\n"
        );
    }

    #[test]
    fn changes_far_from_each_other_are_hunks_of_their_own() {
        let old: String = (0..30).map(|n| format!("{n}\n")).collect();
        let new = old.replace("\n3\n", "\nthree\n").replace("\n25\n", "\n");
        let shown = unified("x", Some(&old), Some(&new));
        assert_eq!(shown.matches("@@ -").count(), 2, "{shown}");
        assert!(
            shown.contains("@@ -1,7 +1,7 @@") && shown.contains("@@ -23,7 +23,6 @@"),
            "{shown}"
        );
    }

    #[test]
    fn texts_without_end_are_shown_as_exchanged() {
        let many = |word: &str| {
            (0..2000)
                .map(|n| format!("{word}{n}\n"))
                .collect::<String>()
        };
        let shown = unified("x", Some(&many("a")), Some(&many("b")));
        assert_eq!(shown.lines().count(), 4003);
    }
}
