//! Records in the DNS by the operator's own program: `PROGRAM ARGUMENTS… present NAME VALUE`, and `cleanup` when the CA has looked.

use std::future::Future;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::failure::Failure;
use super::pending::Proof;
use super::problem::cut;
use crate::config::DnsHook;

/// For one call. `present` returns when the CA can see the record, which takes a while with many providers. A program that is not done by
/// then is killed with all that it started.
const DEADLINE: Duration = Duration::from_secs(120);
/// For what a program that has ended said last: something that it left behind may hold its standard error open.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes of its standard error that stand in a failure: the last ones.
const ERROR_BYTES: usize = 300;

/// A record that is there while the CA looks.
#[derive(Clone)]
struct Record {
    hook: DnsHook,
    name: String,
    value: String,
}

/// Has the proof's record set, does what is to be done meanwhile, and has it removed again, whatever came of it: also when it was given up
/// in the middle. A record that cannot be removed is named in the log and hurts nothing.
pub async fn during<T>(
    hook: &DnsHook,
    proof: &Proof,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let record = Record {
        hook: hook.clone(),
        name: format!("_acme-challenge.{}", proof.name),
        value: proof.dns_value.clone(),
    };
    let mut cleanup = Cleanup(Some(record.clone()));
    let done = match record.call("present").await {
        Ok(()) => work.await,
        Err(why) => Err(Failure::Local(why)),
    };
    if let Some(record) = cleanup.0.take() {
        record.clean_up().await;
    }
    done
}

/// Removes the record though whoever waited has gone.
struct Cleanup(Option<Record>);

impl Drop for Cleanup {
    fn drop(&mut self) {
        let runtime = tokio::runtime::Handle::try_current();
        if let (Some(record), Ok(runtime)) = (self.0.take(), runtime) {
            runtime.spawn(async move { record.clean_up().await });
        }
    }
}

impl Record {
    async fn clean_up(&self) {
        if let Err(why) = self.call("cleanup").await {
            tracing::warn!("acme: {why}");
        }
    }

    async fn call(&self, verb: &'static str) -> Result<(), String> {
        let program = self.hook.program.display();
        let called = format!("dns_hook: {program} {verb} {}", self.name);
        let child = Command::new(&self.hook.program)
            .args(&self.hook.arguments)
            .args([verb, &self.name, &self.value])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{called}: {error}"))?;
        let mut group = Group::of(&child);
        let (status, said) = timeout(DEADLINE, end(child)).await.map_err(|_| {
            let seconds = DEADLINE.as_secs();
            format!("{called}: not done within {seconds} s, and killed")
        })?;
        group.0 = None;
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(cut(format!("{called}: {status}: {said}"))),
            Err(error) => Err(format!("{called}: {error}")),
        }
    }
}

/// What a program started belongs to its group; killed with the value, unless the program has ended by itself.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Group {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Group(id.and_then(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            // It may have ended in this moment.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// How a program ended, and what it said last on its standard error, which is read while it runs, so that it never waits for a reader.
async fn end(mut child: Child) -> (std::io::Result<ExitStatus>, String) {
    let error = child.stderr.take();
    let (say, said) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let text = match error {
            Some(error) => tail(error).await,
            None => String::new(),
        };
        // Who asked may have gone.
        let _ = say.send(text);
    });
    let status = child.wait().await;
    let said = timeout(LAST_WORDS, said).await;
    let said = said.ok().and_then(Result::ok).unwrap_or_default();
    (status, said)
}

async fn tail(mut from: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut chunk = [0; 1024];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..count]);
        let beyond = kept.len().saturating_sub(ERROR_BYTES);
        kept.drain(..beyond);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;
    use crate::config::Challenge;

    /// A script that writes down how it was called, and then does what the test wants.
    struct World {
        folder: PathBuf,
        hook: DnsHook,
    }

    impl World {
        fn new(then: &str) -> World {
            let folder = std::env::temp_dir().join(format!("rota-hook-{:x}", fastrand::u64(..)));
            fs::create_dir(&folder).unwrap();
            let program = folder.join("hook");
            let calls = folder.join("calls");
            let script = format!("#!/bin/sh\necho \"$@\" >> {}\n{then}\n", calls.display());
            fs::write(&program, script).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
            let arguments = vec!["zone 1; exit 1".to_owned()];
            World {
                folder,
                hook: DnsHook { program, arguments },
            }
        }

        fn calls(&self) -> Vec<String> {
            let text = fs::read_to_string(self.folder.join("calls")).unwrap_or_default();
            text.lines().map(str::to_owned).collect()
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    fn proof() -> Proof {
        Proof {
            challenge: Challenge::Dns01,
            name: "shop.test".into(),
            token: "t".into(),
            digest: [0; 32],
            dns_value: "the-value".into(),
        }
    }

    const PRESENT: &str = "zone 1; exit 1 present _acme-challenge.shop.test the-value";
    const CLEANUP: &str = "zone 1; exit 1 cleanup _acme-challenge.shop.test the-value";

    #[tokio::test]
    async fn a_record_is_there_while_the_ca_looks_and_gone_after() {
        let world = World::new("");
        let seen = Cell::new(0);
        let work = async {
            seen.set(world.calls().len());
            Ok(7)
        };
        assert_eq!(during(&world.hook, &proof(), work).await, Ok(7));
        assert_eq!(seen.get(), 1);
        assert_eq!(world.calls(), [PRESENT, CLEANUP]);
    }

    #[tokio::test]
    async fn a_failure_is_told_with_the_programs_last_words_and_cleaned_up_after() {
        let world = World::new("head -c 100000 /dev/zero >&2; echo 'no such zone' >&2; exit 3");
        let work = async { Ok(()) };
        let failure = during(&world.hook, &proof(), work).await.unwrap_err();
        let text = failure.text();
        assert!(matches!(failure, Failure::Local(_)));
        assert!(text.contains("hook present _acme-challenge.shop.test: exit status: 3: "));
        assert!(text.ends_with("no such zone") && text.len() < 600, "{text}");
        assert_eq!(world.calls(), [PRESENT, CLEANUP]);
        let absent = DnsHook {
            program: world.folder.join("absent"),
            arguments: Vec::new(),
        };
        let failure = during(&absent, &proof(), async { Ok(()) }).await;
        assert!(failure.unwrap_err().text().contains("No such file"));
    }

    #[tokio::test]
    async fn a_work_that_fails_or_is_given_up_is_cleaned_up_after() {
        let world = World::new("");
        let failing = async { Err::<(), _>(Failure::Refused("no".into())) };
        assert!(during(&world.hook, &proof(), failing).await.is_err());
        let shown = proof();
        let given_up = during(&world.hook, &shown, std::future::pending::<Result<(), _>>());
        let _ = timeout(Duration::from_millis(300), given_up).await;
        let end = tokio::time::Instant::now() + Duration::from_secs(10);
        while world.calls().len() < 4 && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(world.calls(), [PRESENT, CLEANUP, PRESENT, CLEANUP]);
    }

    #[tokio::test]
    async fn what_a_program_leaves_behind_does_not_hold_the_order_up() {
        let world = World::new("sleep 30 &");
        let start = std::time::Instant::now();
        let work = async { Ok(()) };
        assert_eq!(during(&world.hook, &proof(), work).await, Ok(()));
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[tokio::test]
    async fn a_program_that_is_given_up_dies_with_all_that_it_started() {
        let world = World::new("sleep 1000 & echo $! >> $(dirname $0)/child; wait");
        let child = world.folder.join("child");
        let record = Record {
            hook: world.hook.clone(),
            name: "n".into(),
            value: "v".into(),
        };
        let is_started = async {
            while !fs::read_to_string(&child).is_ok_and(|text| text.ends_with('\n')) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            _ = record.call("present") => panic!("it sleeps"),
            _ = timeout(Duration::from_secs(10), is_started) => {}
        }
        let started = fs::read_to_string(&child).unwrap();
        let path = format!("/proc/{}/stat", started.trim());
        let is_alive = || {
            let state = fs::read_to_string(&path).unwrap_or_default();
            let after_name = state.rsplit(')').next().unwrap_or_default();
            !after_name.trim().is_empty() && !after_name.trim().starts_with('Z')
        };
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while is_alive() && std::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!is_alive());
    }
}
