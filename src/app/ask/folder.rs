//! Documents in a directory, as an operator keeps them: files named as their keys in KV, and what else lies there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::routing::staged::{Kind, Staged};

/// Files that one directory may hold; of more it is likely another directory.
const MAX_FILES: usize = 200_000;
const ENDINGS: [&str; 2] = ["toml", "json"];

/// What a directory holds.
#[derive(Debug, Default)]
pub struct Folder {
    pub staged: Staged,
    /// The file of each document, for who has to be told of a mistake in it.
    pub files: BTreeMap<String, PathBuf>,
}

impl Folder {
    /// Reads it whole; a folder `services`, `routes` or `domains` and a file `tuning.toml` say that their kind is meant. What begins
    /// with a dot is passed over, and files beside them that are no documents.
    ///
    /// # Errors
    /// All that cannot be read or is not known, a line each.
    pub fn read(root: &Path) -> Result<Folder, String> {
        let mut reading = Reading::default();
        for path in entries(root)? {
            reading.take(root, &path);
        }
        if reading.faults.is_empty() && reading.folder.staged.kinds.is_empty() {
            let root = root.display();
            reading.faults.push(format!(
                "{root}: no services/, routes/, domains/ or tuning.toml in it"
            ));
        }
        match reading.faults.is_empty() {
            true => Ok(reading.folder),
            false => Err(reading.faults.join("\n")),
        }
    }
}

#[derive(Default)]
struct Reading {
    folder: Folder,
    faults: Vec<String>,
}

impl Reading {
    fn take(&mut self, root: &Path, path: &Path) {
        let name = name_of(path);
        let kind = Kind::ALL.into_iter().find(|kind| kind.word() == name);
        match (path.is_dir(), kind) {
            (true, Some(Kind::Services | Kind::Routes | Kind::Domains)) => {
                if let Some(kind) = kind {
                    self.folder.staged.kinds.insert(kind);
                }
                self.below(root, path);
            }
            (true, Some(Kind::Tuning) | None) => self.faults.push(format!(
                "{}: nobody reads this: known are services/, routes/, domains/ and tuning.toml",
                path.display()
            )),
            (false, _) => match document_of(Path::new(&name)) {
                Some(stem) if stem == Kind::Tuning.word() => {
                    self.folder.staged.kinds.insert(Kind::Tuning);
                    self.document(stem, path);
                }
                Some(_) => self.faults.push(format!(
                    "{}: nobody reads this: beside the folders there is tuning.toml alone",
                    path.display()
                )),
                None => {}
            },
        }
    }

    /// Names of routes may have slashes.
    fn below(&mut self, root: &Path, folder: &Path) {
        let entries = match entries(folder) {
            Ok(entries) => entries,
            Err(fault) => return self.faults.push(fault),
        };
        for path in entries {
            if path.is_dir() {
                self.below(root, &path);
                continue;
            }
            let relative = path.strip_prefix(root).unwrap_or(&path);
            match document_of(relative) {
                Some(stem) => self.document(stem, &path),
                None => self.faults.push(format!(
                    "{}: no document: expected a name that ends with .toml or .json",
                    path.display()
                )),
            }
        }
    }

    fn document(&mut self, path: String, file: &Path) {
        if let Some(other) = self.folder.files.get(&path) {
            let (file, other) = (file.display(), other.display());
            return self
                .faults
                .push(format!("{file}: {path} is in {other} already"));
        }
        if self.folder.files.len() == MAX_FILES {
            return self.faults.push(format!("more than {MAX_FILES} documents"));
        }
        match fs::read_to_string(file) {
            Ok(text) => {
                self.folder.files.insert(path.clone(), file.to_owned());
                self.folder.staged.documents.insert(path, text);
            }
            Err(error) => self.faults.push(format!("{}: {error}", file.display())),
        }
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let unreadable = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if !name_of(&path).starts_with('.') {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// A relative path without its ending, if that is a document's.
fn document_of(path: &Path) -> Option<String> {
    let (stem, ending) = path.to_str()?.rsplit_once('.')?;
    ENDINGS.contains(&ending).then(|| stem.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path =
                std::env::temp_dir().join(format!("rota-folder-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Scratch(path)
        }

        fn write(&self, name: &str, text: &str) -> &Scratch {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn files_are_documents_by_the_names_that_they_have_in_kv() {
        let scratch = Scratch::new("names");
        scratch
            .write("services/shop.json", "{}")
            .write("domains/shop.example.com.toml", "")
            .write("routes/a/b.toml", "x")
            .write("tuning.toml", "[limits]")
            .write("README.md", "words")
            .write(".git/config", "")
            .write("routes/.keep", "");
        let folder = Folder::read(&scratch.0).unwrap();
        let paths: Vec<&str> = folder.staged.documents.keys().map(String::as_str).collect();
        assert_eq!(
            paths,
            [
                "domains/shop.example.com",
                "routes/a/b",
                "services/shop",
                "tuning"
            ]
        );
        assert_eq!(folder.staged.kinds, Kind::ALL.into());
        assert!(folder.files["tuning"].ends_with("tuning.toml"));
    }

    #[test]
    fn kinds_without_a_folder_are_not_meant() {
        let scratch = Scratch::new("kinds");
        scratch.write("routes/a.toml", "");
        let staged = Folder::read(&scratch.0).unwrap().staged;
        assert_eq!(staged.kinds, [Kind::Routes].into());
    }

    #[test]
    fn what_nobody_would_read_is_told_all_at_once() {
        let scratch = Scratch::new("faults");
        scratch
            .write("service/shop.toml", "")
            .write("routes/a.toml", "")
            .write("routes/a.json", "")
            .write("routes/b.toml~", "")
            .write("tunign.toml", "");
        let told = Folder::read(&scratch.0).unwrap_err();
        assert_eq!(told.lines().count(), 4, "{told}");
        for word in [
            "/service:",
            "a.toml: routes/a is in",
            "b.toml~:",
            "tunign.toml:",
        ] {
            assert!(told.contains(word), "{word}: {told}");
        }
        let empty = Scratch::new("empty");
        assert!(Folder::read(&empty.0).unwrap_err().contains("no services/"));
        assert!(Folder::read(&empty.0.join("none")).is_err());
    }
}
