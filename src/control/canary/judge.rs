//! Whether what is tried is worse than what was: by service, each load balancer beside its own time before, corrected by how the
//! others moved meanwhile. Pure.
//!
//! Difference in differences (D. Card, A. Krueger, American Economic Review 84, 1994): what happens to everybody, a server that dies,
//! a Monday morning, moves the others as well and is taken off. Each load balancer counts by its share of the requests *during*
//! the canary, before as after, so that clients who move from one to another are no change. Only rates are compared, never numbers
//! of requests: one large NAT behind one load balancer is many requests there and nothing else.
//!
//! Shares have the variance of A. Agresti and B. Caffo (The American Statistician 54, 2000: a success and a failure more on each
//! side), which holds for few requests and for no failure among them. [`SIGMAS`] is high because it is looked at again and again, at
//! many services, and requests of one client are not independent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::counts::{Counts, Pair, Report};
use super::durations::{BUCKETS, beyond, median, milliseconds};
use crate::routing::ServiceName;
use crate::routing::canary::{Canary, Compared, Side};

/// Requests on the side of the canary, and of what it is compared with; with fewer nothing is said.
pub const SAMPLE: u64 = 100;
/// Of a service that the change is about so few say enough, where so many more of them fail (0 to 1).
pub const FEW: u64 = 20;
pub const FEW_FAILED_MARGIN: f64 = 0.5;
/// So much more of the requests may fail (0 to 1): less is worth no rollback.
pub const FAILED_MARGIN: f64 = 0.01;
/// And so much more be answered with 400 to 499: those are the clients' own as a rule, one that looks for holes among them.
pub const REFUSED_MARGIN: f64 = 0.2;
/// Standard deviations that a difference has to be beyond its margin.
pub const SIGMAS: f64 = 4.0;
/// A request is slow that takes so many times the median of before: durations differ by themselves, with caches and pools that are cold.
pub const SLOWER_TIMES: f64 = 3.0;
/// Where the median is longer by less nothing is said: milliseconds.
pub const SLOWER_BY_MS: f64 = 20.0;
/// So much more of the requests may be slow (0 to 1): those of one client that begins what takes long are fewer.
pub const SLOW_MARGIN: f64 = 0.4;
/// And with fewer requests that is said at the end alone: a burst of one client is soon most of a hundred.
pub const SLOW_SAMPLE: u64 = 1000;
/// A canary's load balancers have to be heard of within so long of its begin.
pub const HEARD_WITHIN: Duration = Duration::from_secs(30);
const OVERDUE: &str = "nobody could judge it in time, consul was away";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Wait,
    /// With the reason, as what follows.
    Promote(String),
    RollBack(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    pub verdict: Verdict,
    /// All requests first, then services by name.
    pub compared: Vec<Compared>,
}

/// `reports` are those of the load balancers that are heard of, by name. `heard` is how long whoever judges has known of the canary:
/// of the clock by which its end was written nothing is asked but how long it is to last.
pub fn judge(canary: &Canary, reports: &BTreeMap<String, Report>, heard: Duration) -> Judgement {
    let bench = Bench { canary, reports };
    let mut fields = vec![bench.field(None)];
    fields.extend(
        bench
            .services()
            .into_iter()
            .map(|name| bench.field(Some(name))),
    );
    let whole = fields[0].clone();
    let finding = |field: &Field| field.finding(&whole, bench.least(field));
    let findings: Vec<Finding> = fields.iter().map(finding).collect();
    let verdict = bench.verdict(&fields, &findings, bench.lasted(heard));
    let compared = fields.iter().zip(&findings);
    Judgement {
        verdict,
        compared: compared
            .map(|(field, found)| field.compared(found))
            .collect(),
    }
}

struct Bench<'a> {
    canary: &'a Canary,
    reports: &'a BTreeMap<String, Report>,
}

/// One comparison.
#[derive(Clone, Debug)]
struct Field {
    /// None: all requests.
    service: Option<ServiceName>,
    canary: Vec<Pair>,
    others: Vec<Pair>,
}

#[derive(Clone, Debug, PartialEq)]
enum Finding {
    TooFew,
    NoWorse,
    Worse(String),
    Slower(String),
}

impl Bench<'_> {
    fn services(&self) -> BTreeSet<&ServiceName> {
        let reports = self.reports.values();
        reports.flat_map(|report| report.services.keys()).collect()
    }

    fn field(&self, service: Option<&ServiceName>) -> Field {
        let pair = |report: &Report| match service {
            None => report.all,
            Some(name) => report.services.get(name).copied().unwrap_or_default(),
        };
        let side = |is_canary: bool| {
            let reports = self.reports.iter();
            let of_side = reports.filter(move |(node, _)| self.canary.is_on(node) == is_canary);
            of_side.map(|(_, report)| pair(report)).collect()
        };
        Field {
            service: service.cloned(),
            canary: side(true),
            others: side(false),
        }
    }

    /// Who judges may have begun in its middle: then others have heard of it for longer.
    fn lasted(&self, heard: Duration) -> Duration {
        let reports = self.reports.values();
        let longest = reports.map(|report| report.heard_ms).max();
        heard.max(Duration::from_millis(longest.unwrap_or_default()))
    }

    fn verdict(&self, fields: &[Field], findings: &[Finding], lasted: Duration) -> Verdict {
        let nodes = self.canary.nodes.join(", ");
        if lasted >= self.canary.overdue_after() {
            // Those that try it take it off by themselves now: what was counted since is of what was before.
            return Verdict::RollBack(OVERDUE.to_owned());
        }
        let is_over = lasted >= self.canary.lasting();
        let is_due = lasted >= HEARD_WITHIN;
        let silent = self.those(|node| !self.reports.contains_key(node));
        if !silent.is_empty() && (is_over || is_due) {
            return Verdict::RollBack(format!("nothing is heard of {}", few(&silent)));
        }
        let again = self.those(|node| self.reports.get(node).is_some_and(|one| one.is_second));
        if !again.is_empty() {
            let again = few(&again);
            return Verdict::RollBack(format!("restarted meanwhile, or crashed: {again}"));
        }
        let off = self.those(|node| self.reports.get(node).is_some_and(|one| one.is_taken_off));
        if !off.is_empty() {
            let off = few(&off);
            return Verdict::RollBack(format!("consul was away, and it was taken off on {off}"));
        }
        // What is wrong with a service says more than what is wrong with all requests.
        let both = || fields.iter().zip(findings);
        let mut worse =
            both()
                .skip(1)
                .chain(both().take(1))
                .filter_map(|(field, found)| match found {
                    Finding::Worse(why) => Some((field, why)),
                    Finding::Slower(why) => {
                        let is_enough = is_over || field.during().requests >= SLOW_SAMPLE;
                        is_enough.then_some((field, why))
                    }
                    Finding::TooFew | Finding::NoWorse => None,
                });
        if let Some((field, why)) = worse.next() {
            return Verdict::RollBack(format!("{} on {nodes}: {why}", field.name()));
        }
        match is_over {
            false => Verdict::Wait,
            true => self.at_the_end(fields, findings),
        }
    }

    /// Load balancers of the canary that something is true of.
    fn those(&self, is_so: impl Fn(&String) -> bool) -> Vec<String> {
        let nodes = self.canary.nodes.iter();
        nodes.filter(|node| is_so(node)).cloned().collect()
    }

    /// Whether the change is about it; all requests are what a change of no service is about.
    fn is_meant(&self, field: &Field) -> bool {
        match &field.service {
            None => self.canary.services.is_empty(),
            Some(name) => self.canary.is_about(name.as_str()),
        }
    }

    /// Requests that something is said of.
    fn least(&self, field: &Field) -> u64 {
        match self.is_meant(field) {
            true => FEW,
            false => SAMPLE,
        }
    }

    /// Each service that the change is about and that had requests has to have been compared, and one of them at least: requests of
    /// others are no evidence for it.
    fn at_the_end(&self, fields: &[Field], findings: &[Finding]) -> Verdict {
        let meant = fields.iter().zip(findings);
        let meant: Vec<_> = meant.filter(|(field, _)| self.is_meant(field)).collect();
        let asked = meant.iter().copied();
        let asked = asked.filter(|(field, _)| !field.is_unasked());
        let (compared, lacking): (Vec<_>, Vec<_>) =
            asked.partition(|(_, found)| *found == &Finding::NoWorse);
        if lacking.is_empty() && !compared.is_empty() {
            let names = compared.iter().map(|(field, _)| field.name());
            return Verdict::Promote(format!("no worse: {}", few(&names.collect::<Vec<_>>())));
        }
        let (lacking, names) = match lacking.is_empty() {
            true => (meant, self.canary.services.clone()),
            false => {
                let services = lacking
                    .iter()
                    .filter_map(|(field, _)| field.service.as_ref());
                let names = services.map(ToString::to_string).collect();
                (lacking, names)
            }
        };
        let about = match names.is_empty() {
            true => String::new(),
            false => format!(" of {}", few(&names)),
        };
        let count = |side: fn(&Field) -> &Vec<Pair>| {
            let sides = lacking.iter().map(|(field, _)| requests(side(field)));
            sides.sum::<u64>()
        };
        Verdict::RollBack(format!(
            "too few requests{about} to compare: {} on {}, {} on the others, {SAMPLE} are needed",
            count(|field| &field.canary),
            self.canary.nodes.join(", "),
            count(|field| &field.others)
        ))
    }
}

fn requests(pairs: &[Pair]) -> u64 {
    pairs.iter().map(|pair| pair.during.requests).sum()
}

/// Names that one reason has; more are counted.
const NAMED: usize = 5;

fn few(names: &[String]) -> String {
    let first = names[..names.len().min(NAMED)].join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// A number that came out of samples.
#[derive(Clone, Copy, Debug)]
struct Estimate {
    value: f64,
    variance: f64,
}

impl Estimate {
    fn less(self, other: Estimate) -> Estimate {
        Estimate {
            value: self.value - other.value,
            variance: self.variance + other.variance,
        }
    }

    fn is_beyond(self, margin: f64) -> bool {
        self.value - SIGMAS * self.variance.sqrt() > margin
    }
}

/// The share of requests that something is true of.
fn share(counts: Counts, of: impl Fn(&Counts) -> u64) -> Estimate {
    let (count, requests) = (of(&counts) as f64, counts.requests as f64);
    let smooth = (count + 1.0) / (requests + 2.0);
    Estimate {
        value: if requests > 0.0 {
            count / requests
        } else {
            0.0
        },
        variance: smooth * (1.0 - smooth) / (requests + 2.0),
    }
}

/// Those that can be compared with their own time before; None: they have too few requests, then or (less than `least`) now.
fn with_past(pairs: &[Pair], least: u64) -> Option<Vec<(f64, Pair)>> {
    let both = pairs
        .iter()
        .filter(|pair| pair.before.requests > 0 && pair.during.requests > 0);
    let both: Vec<Pair> = both.copied().collect();
    let before: u64 = both.iter().map(|pair| pair.before.requests).sum();
    let during = requests(&both);
    let weighed = |pair: Pair| (pair.during.requests as f64 / during as f64, pair);
    (before >= SAMPLE && during >= least).then(|| both.into_iter().map(weighed).collect())
}

/// How a share moved, each load balancer beside itself.
fn moved(pairs: &[Pair], of: &impl Fn(&Counts) -> u64, least: u64) -> Option<Estimate> {
    let differences = with_past(pairs, least)?.into_iter().map(|(weight, pair)| {
        let moved = share(pair.during, of).less(share(pair.before, of));
        Estimate {
            value: moved.value * weight,
            variance: moved.variance * weight * weight,
        }
    });
    differences.reduce(|one, other| Estimate {
        value: one.value + other.value,
        variance: one.variance + other.variance,
    })
}

fn sum(pairs: &[Pair], of: fn(&Pair) -> Counts) -> Counts {
    pairs.iter().map(of).fold(Counts::default(), Counts::and)
}

/// Enough to compare with.
fn enough(counts: Counts) -> Option<Counts> {
    at_least(SAMPLE, counts)
}

fn at_least(least: u64, counts: Counts) -> Option<Counts> {
    (counts.requests >= least).then_some(counts)
}

impl Field {
    fn name(&self) -> String {
        match &self.service {
            None => "all requests".to_owned(),
            Some(name) => format!("service {name}"),
        }
    }

    fn is_unasked(&self) -> bool {
        requests(&self.canary) == 0
    }

    fn during(&self) -> Counts {
        sum(&self.canary, |pair| pair.during)
    }

    fn others_during(&self) -> Counts {
        sum(&self.others, |pair| pair.during)
    }

    /// How much more there is of something than was to be expected; None: nobody can say. Beside its own time before, less what the
    /// others moved; where it has no past, beside the others; a service that nobody else knows, beside all requests of before.
    fn excess(&self, whole: &Field, of: impl Fn(&Counts) -> u64, least: u64) -> Option<Estimate> {
        let during = at_least(least, self.during())?;
        if let Some(own) = moved(&self.canary, &of, least) {
            return Some(match moved(&self.others, &of, SAMPLE) {
                Some(others) => own.less(others),
                None => own,
            });
        }
        let of_others = enough(self.others_during());
        let of_whole = || enough(sum(&whole.canary, |pair| pair.before));
        let expected = of_others.or_else(of_whole)?;
        Some(share(during, &of).less(share(expected, &of)))
    }

    /// The binary logarithm of what requests are expected to take: the median of the canary's own time before, had each load balancer had
    /// its requests of now; where it has no past, that of the others. None: nobody can say.
    fn usual(&self) -> Option<f64> {
        let weighed: Vec<(f64, Counts)> = match with_past(&self.canary, SAMPLE) {
            Some(past) => {
                let before = past.into_iter();
                before
                    .map(|(weight, pair)| (weight / pair.before.requests as f64, pair.before))
                    .collect()
            }
            None => vec![(1.0, enough(self.others_during())?)],
        };
        let all: [f64; BUCKETS] = std::array::from_fn(|bucket| {
            let here = weighed.iter();
            here.map(|(weight, counts)| weight * counts.durations[bucket] as f64)
                .sum()
        });
        median(&all)
    }

    /// Whether so many more requests than were to be expected are slow that those of one client are not all of them.
    fn slower(&self, whole: &Field) -> Option<Finding> {
        let during = self.during();
        let (usual, now) = (self.usual()?, middle(during)?);
        let bound = usual + SLOWER_TIMES.log2();
        let is_slow = |counts: &Counts| beyond(&counts.durations, bound);
        let excess = self.excess(whole, is_slow, SAMPLE)?;
        let is_longer = milliseconds(now) - milliseconds(usual) > SLOWER_BY_MS;
        (is_longer && excess.is_beyond(SLOW_MARGIN)).then(|| {
            let verb = format!("took more than {:.1} ms", milliseconds(bound));
            Finding::Slower(told(excess, is_slow(&during), during, &verb))
        })
    }

    /// With fewer requests than a sample, but `least`, all that is seen is that nearly all of them fail.
    fn finding(&self, whole: &Field, least: u64) -> Finding {
        let during = self.during();
        let failed = self.excess(whole, |counts| counts.failed, least);
        let refused = self.excess(whole, |counts| counts.refused, least);
        let (Some(failed), Some(refused)) = (failed, refused) else {
            return Finding::TooFew;
        };
        let is_few = during.requests < SAMPLE;
        let margin = if is_few {
            FEW_FAILED_MARGIN
        } else {
            FAILED_MARGIN
        };
        if failed.is_beyond(margin) {
            return Finding::Worse(told(failed, during.failed, during, "failed"));
        }
        if is_few {
            return Finding::TooFew;
        }
        if refused.is_beyond(REFUSED_MARGIN) {
            let verb = "were answered with 4xx";
            return Finding::Worse(told(refused, during.refused, during, verb));
        }
        self.slower(whole).unwrap_or(Finding::NoWorse)
    }

    fn compared(&self, found: &Finding) -> Compared {
        let side = |pairs: &[Pair], of| side(sum(pairs, of));
        Compared {
            service: self
                .service
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            canary: side(&self.canary, |pair| pair.during),
            canary_before: side(&self.canary, |pair| pair.before),
            others: side(&self.others, |pair| pair.during),
            others_before: side(&self.others, |pair| pair.before),
            finding: match found {
                Finding::TooFew => "too few requests to compare".to_owned(),
                Finding::NoWorse => "no worse".to_owned(),
                Finding::Worse(why) | Finding::Slower(why) => format!("worse: {why}"),
            },
        }
    }
}

fn side(counts: Counts) -> Side {
    Side {
        requests: counts.requests,
        failed: share(counts, |counts| counts.failed).value,
        refused: share(counts, |counts| counts.refused).value,
        milliseconds: middle(counts).map_or(0.0, milliseconds),
    }
}

/// What stands in a reason: `count` of `during` did what the verb says.
fn told(excess: Estimate, count: u64, during: Counts, verb: &str) -> String {
    let share = count as f64 / during.requests as f64;
    let expected = (share - excess.value).clamp(0.0, 1.0);
    format!(
        "{} of {} requests {verb}, {} were to be expected",
        percent(share),
        during.requests,
        percent(expected)
    )
}

/// The binary logarithm of the median.
fn middle(counts: Counts) -> Option<f64> {
    median(&counts.durations.map(|count| count as f64))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests;
