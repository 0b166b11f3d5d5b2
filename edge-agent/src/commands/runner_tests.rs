use super::*;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

fn program(path: impl Into<PathBuf>) -> Program {
    Program {
        path: path.into(),
        env: BTreeMap::new(),
        dir: "/".into(),
        identity: None,
        timeout: Duration::from_secs(60),
        stop_grace: Duration::from_secs(60),
        output_bytes_max: 4096,
    }
}

/// A program made of shell lines; the agent knows only its path.
fn script(dir: &Path, lines: &str) -> Program {
    let path = dir.join("program");
    std::fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    program(path)
}

async fn run_it(program: &Program, args: &[&str]) -> Outcome {
    let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
    run(program, &args, &Stop::default()).await
}

fn code(outcome: &Outcome) -> Option<i32> {
    match outcome.end {
        End::Exited(status) => status.code(),
        _ => None,
    }
}

/// Whether a process is there and no zombie.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|s| !s.starts_with('Z') && !s.starts_with('X'))
}

async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} has not happened");
}

#[tokio::test]
async fn exit_codes_and_output_come_back() {
    assert_eq!(code(&run_it(&program("/bin/true"), &[]).await), Some(0));
    assert_eq!(code(&run_it(&program("/bin/false"), &[]).await), Some(1));
    let dir = tempfile::tempdir().unwrap();
    let outcome = run_it(
        &script(dir.path(), "echo one; echo two >&2; echo three; exit 7"),
        &[],
    )
    .await;
    assert_eq!(code(&outcome), Some(7));
    // Both outputs, in the order in which they were written.
    assert_eq!(outcome.output, "one\ntwo\nthree");
    let missing = run_it(&program("/nowhere/at/all"), &[]).await;
    assert!(matches!(missing.end, End::NotStarted(_)), "{missing:?}");
}

#[tokio::test]
async fn the_environment_is_clean_and_input_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = script(
        dir.path(),
        "env | sort; pwd; cat; echo $#; for a; do echo \"<$a>\"; done",
    );
    program.env = BTreeMap::from([("GREETING".to_owned(), "a b".to_owned())]);
    let outcome = run_it(&program, &["$(touch x)", "a; b", "`id`", "", "*", "a\nb"]).await;
    let lines: Vec<&str> = outcome.output.lines().collect();
    let env: Vec<&str> = lines.iter().copied().filter(|l| l.contains('=')).collect();
    // A shell adds PWD and some of its own.
    let own = ["PWD=", "OLDPWD=", "SHLVL=", "_="];
    let given: Vec<&str> = env
        .into_iter()
        .filter(|l| !own.iter().any(|o| l.starts_with(o)))
        .collect();
    let path = format!("PATH={PATH}");
    assert_eq!(given, ["GREETING=a b", path.as_str()]);
    assert!(lines.contains(&"/"), "{lines:?}");
    // Arguments arrive as they are, one for one.
    let arguments = "6\n<$(touch x)>\n<a; b>\n<`id`>\n<>\n<*>\n<a\nb>";
    assert!(outcome.output.ends_with(arguments), "{}", outcome.output);
    assert!(!Path::new("/x").exists());
}

#[tokio::test]
async fn of_much_output_the_end_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = script(
        dir.path(),
        "i=0; while [ $i -lt 20000 ]; do echo \"line ü $i\"; i=$((i+1)); done",
    );
    program.output_bytes_max = 101;
    let outcome = run_it(&program, &[]).await;
    assert_eq!(code(&outcome), Some(0));
    assert!(
        outcome.output.ends_with("line ü 19998\nline ü 19999"),
        "{}",
        outcome.output
    );
    assert!(outcome.output.starts_with('\u{2026}') && outcome.output.len() <= 104);
    program.output_bytes_max = 0;
    assert_eq!(run_it(&program, &[]).await.output, "\u{2026}");
    let mut tail = Tail::new(3);
    tail.push("aüb".as_bytes());
    assert_eq!(tail.text(), "\u{2026}üb");
    let mut tail = Tail::new(2);
    tail.push("aüb".as_bytes());
    assert_eq!(tail.text(), "\u{2026}b");
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_ended_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let lines = format!(
        "sleep 1000 & echo $! > {0}; echo $$ >> {0}; echo here; sleep 1000",
        pids.display()
    );
    let mut program = script(dir.path(), &lines);
    program.timeout = Duration::from_millis(700);
    let outcome = run_it(&program, &[]).await;
    assert!(matches!(outcome.end, End::TimedOut), "{outcome:?}");
    assert_eq!(outcome.output, "here");
    assert!(outcome.duration < KILL_AFTER + Duration::from_secs(30));
    let pids = std::fs::read_to_string(&pids).unwrap();
    assert_eq!(pids.lines().count(), 2);
    for pid in pids.lines() {
        wait_until("the end of the group", || !lives(pid)).await;
    }
}

#[tokio::test]
async fn who_ignores_sigterm_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let lines = format!(
        "trap '' TERM; echo $$ > {}; while :; do sleep 0.1; done",
        pid.display()
    );
    let mut program = script(dir.path(), &lines);
    program.timeout = Duration::from_millis(700);
    let outcome = run_it(&program, &[]).await;
    assert!(matches!(outcome.end, End::TimedOut), "{outcome:?}");
    assert!(
        outcome.duration >= program.timeout + KILL_AFTER,
        "{:?}",
        outcome.duration
    );
    let pid = std::fs::read_to_string(&pid).unwrap();
    // Gone, not a zombie: its parent, this process, has taken its status.
    assert!(!Path::new(&format!("/proc/{}", pid.trim())).exists());
}

#[tokio::test]
async fn children_left_behind_are_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    // The child holds the pipe open.
    let lines = format!("sleep 1000 & echo $! > {}; echo started", pid.display());
    let outcome = run_it(&script(dir.path(), &lines), &[]).await;
    assert_eq!(
        (code(&outcome), outcome.output.as_str()),
        (Some(0), "started")
    );
    assert!(outcome.duration < Duration::from_secs(60));
    let pid = std::fs::read_to_string(&pid).unwrap();
    assert!(lives(&pid), "it was ended, too");
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_stop_gives_a_grace_and_then_ends() {
    let sleeper = program("/bin/sleep");
    for (grace, hurry, ended) in [
        (0, false, true),
        (60_000, true, true),
        (60_000, false, false),
    ] {
        let stop = Stop::default();
        stop.soon.cancel();
        if hurry {
            stop.now.cancel();
        }
        let program = Program {
            stop_grace: Duration::from_millis(grace),
            ..sleeper.clone()
        };
        let time = if ended { "1000" } else { "0.3" };
        let outcome = run(&program, &[time.to_owned()], &stop).await;
        let stopped = matches!(outcome.end, End::Stopped);
        assert_eq!(stopped, ended, "{grace} {hurry}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_dropped_run_ends_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let lines = format!(
        "sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; sleep 1000",
        pid.display()
    );
    let program = script(dir.path(), &lines);
    let running = tokio::spawn(async move { run_it(&program, &[]).await });
    wait_until("the start", || pid.exists()).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    let pid = std::fs::read_to_string(&pid).unwrap();
    wait_until("the end of the child", || !lives(&pid)).await;
}

#[tokio::test]
async fn a_program_runs_as_another_user() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: who may switch users cannot be tested");
        return;
    }
    let program = Program {
        identity: Some((65_534, 65_533)),
        ..program("/usr/bin/id")
    };
    let outcome = run_it(&program, &[]).await;
    assert!(
        outcome.output.contains("uid=65534") && outcome.output.contains("gid=65533"),
        "{outcome:?}"
    );
    // None of root's other groups.
    let groups = outcome.output.split("groups=").nth(1).unwrap();
    assert!(
        groups.starts_with("65533") && !groups.contains(','),
        "{outcome:?}"
    );
}
