//! Settings read anew while a run goes on: no packet is lost, what can be taken is, and a file with a mistake changes
//! nothing.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::path::Path;

use common::lab::{BACKENDS, Lab, Listener, Sent, Side, TO_V4, wait_until};
use common::{assert_closes, frames, json_lines, reasons, run, script};
use nix::sys::signal::Signal;
use serde_json::Value;

const READ: &str = "vxtap: settings read anew";

/// A run in a lab whose settings stand in `vxtap.toml` of its folder.
struct Service {
    listener: Listener,
}

impl Service {
    fn start(lab: &Lab, flags: &[&str], file: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("vxtap.toml");
        fs::write(&config, file).unwrap();
        // A service has no terminal that could hang up.
        let mut words = vec!["setsid", common::VXTAP, "listen", "--config"];
        words.push(config.to_str().unwrap());
        words.extend(flags);
        let mut command = lab.command(Side::Receiver, &words);
        command.current_dir(folder.path());
        let mut listener = Listener::start(command, folder);
        listener.wait_said("listening on ");
        Self { listener }
    }

    fn dir(&self) -> &Path {
        self.listener.dir.path()
    }

    fn write(&self, file: &str) {
        // As editors do it: another file takes the name.
        let new = self.dir().join("new");
        fs::write(&new, file).unwrap();
        fs::rename(new, self.dir().join("vxtap.toml")).unwrap();
    }

    /// Has it read this file, and tells what it says of it.
    fn reload(&mut self, file: &str) -> String {
        self.write(file);
        let before = self.listener.said().len();
        self.listener.signal(Signal::SIGHUP);
        wait_until("the settings to be read", || {
            let said = self.listener.said()[before..].to_owned();
            let end = said
                .find(READ)
                .or_else(|| said.find("nothing has changed"))?;
            said[end..].contains('\n').then_some(said)
        })
    }
}

fn settings(backend: &str, allow: &str) -> String {
    format!(
        "[receive]\nbind = \"{TO_V4}\"\nbackend = \"{backend}\"\n[filters]\nallow = {allow}\n[output]\n\
         write = \"out.pcapng\"\nflows = \"out.jsonl\"\nsummary = \"out.json\"\n"
    )
}

/// One source is allowed all the time and loses nothing; another comes and goes, and its packets are whole or
/// refused, never cut by the filter of a list that no longer holds.
#[test]
fn no_packet_is_lost_and_none_is_cut_while_the_list_changes() {
    let Some(lab) = Lab::new() else { return };
    lab.ip(Side::Sender, "address add 10.77.0.3/24 dev src0");
    for backend in BACKENDS {
        let lists = [
            r#"["10.77.0.1"]"#,
            r#"["10.77.0.1", "10.77.0.3", "10.9.0.0/16"]"#,
        ];
        let mut service = Service::start(&lab, &[], &settings(backend, lists[0]));
        let words = "--pps 2000 --count 6000 --flows 64 --frame-size 1300 --vni";
        let generate = |source: &str, vni: &str| {
            let words = format!("{words} {vni} --source {source}");
            Sent::of(&run(&mut lab.generator(TO_V4, &words)))
        };
        let (steady, changing, reloads) = std::thread::scope(|scope| {
            let steady = scope.spawn(|| generate("10.77.0.1", "1"));
            let changing = scope.spawn(|| generate("10.77.0.3", "3"));
            let mut reloads = 0;
            while !steady.is_finished() || !changing.is_finished() {
                reloads += 1;
                let said = service.reload(&settings(backend, lists[reloads % 2]));
                assert!(said.contains("; taken: allow = 10.77.0.1"), "{said}");
                assert!(!said.contains("later"), "{said}");
            }
            (steady.join().unwrap(), changing.join().unwrap(), reloads)
        });
        service.listener.wait_for(steady.sent + changing.sent);
        let ended = service.listener.end();
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        let summary = &ended.summary;
        assert_closes(summary);
        assert_eq!(ended.kernel_dropped(), 0, "{backend} {}", ended.said);
        assert!(reloads > 5, "{reloads} reloads");
        assert_eq!(
            summary["received"],
            steady.sent + changing.sent,
            "{backend} {summary}"
        );
        let refused = reasons(summary, "filtered")["not_allowed"];
        let delivered = summary["delivered"].as_u64().unwrap();
        assert_eq!(
            delivered + refused,
            steady.sent + changing.sent,
            "{backend} {summary}"
        );
        let capture = frames(&fs::read(&ended.capture).unwrap());
        let of = |source: &str| {
            let of = capture
                .iter()
                .filter(|frame| frame.interface.contains(source));
            of.count() as u64
        };
        assert_eq!(of("10.77.0.1"), steady.sent, "{backend}");
        assert!(
            of("10.77.0.3") > 0 && refused > 0,
            "{backend}: the list never changed: {refused}"
        );
        for frame in &capture {
            assert_eq!(
                frame.bytes.len() as u32,
                frame.orig_len,
                "{backend}: a packet was cut"
            );
        }
    }
}

#[test]
fn a_file_with_a_mistake_changes_nothing() {
    let Some(lab) = Lab::new() else { return };
    let mut service = Service::start(&lab, &[], &settings("udp", r#"["10.77.0.1"]"#));
    let wrong = settings("udp", r#"["10.77.0.9", "10.77.0.0/8"]"#);
    let said = service.reload(&wrong);
    assert!(
        said.contains("vxtap.toml:5:23: invalid value '10.77.0.0/8' for allow"),
        "{said}"
    );
    assert!(
        said.contains("the settings have 1 mistake: nothing has changed"),
        "{said}"
    );
    fs::remove_file(service.dir().join("vxtap.toml")).unwrap();
    let before = service
        .listener
        .said()
        .matches("nothing has changed")
        .count();
    service.listener.signal(Signal::SIGHUP);
    wait_until("the answer", || {
        (service
            .listener
            .said()
            .matches("nothing has changed")
            .count()
            > before)
            .then_some(())
    });
    assert!(
        service
            .listener
            .said()
            .contains("cannot read the settings in")
    );
    let sent = lab.generate(TO_V4, "--pps 1000 --count 50");
    service.listener.wait_for(sent.sent);
    let ended = service.listener.end();
    assert_eq!(ended.summary["delivered"], sent.sent, "{}", ended.said);
}

#[test]
fn what_needs_a_restart_is_told_and_not_taken() {
    let Some(lab) = Lab::new() else { return };
    let begin = settings("udp", r#"["10.77.0.1"]"#);
    let mut service = Service::start(&lab, &["--mtu-overhead", "50"], &begin);
    let said = service.reload(&begin);
    assert!(
        said.contains("settings read anew; none has changed"),
        "{said}"
    );
    // A flag still counts before the file.
    let new = begin.replace(TO_V4, "10.77.0.2:4790")
        + "[truncation]\nmtu = 9000\nmtu-overhead = 60\n[logging]\nlog = \"debug\"\n";
    let said = service.reload(&new);
    for part in [
        "taken: log = debug",
        "needs a restart: bind = 10.77.0.2:4790; mtu = 9000\n",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("mtu-overhead"), "{said}");
    let said = service.reload(&new);
    assert!(
        said.contains("needs a restart: bind"),
        "it still does: {said}"
    );
    assert!(!said.contains("taken"), "{said}");
    let ended = service.listener.end();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
}

/// The store keeps less, another program is told of its files, and a session has another name, also in the sandbox.
#[test]
fn stores_programs_and_names_change_while_a_run_goes_on() {
    let Some(lab) = Lab::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let program = |name: &str| {
        let path = folder.path().join(name);
        let told = folder.path().join(format!("{name}.told"));
        script(&path, &format!("echo \"$1\" >> {}\n", told.display()));
        (path, told)
    };
    let (first, first_told) = program("first");
    let (second, second_told) = program("second");
    let file = |keep: &str, program: &Path| {
        format!(
            "[receive]\nbind = \"{TO_V4}\"\nbackend = \"udp\"\n[output]\nwrite = \"store/\"\nsummary = \"out.json\"\n\
             [store]\nrotate-packets = 10\n{keep}\non-rotate = \"{}\"\n[sessions]\nlabels = \"labels.csv\"\n",
            program.display()
        )
    };
    // The file of names has to be there when the run begins.
    let labels = folder.path().join("labels.csv");
    fs::write(&labels, "vni,name\n1,before\n").unwrap();
    let with_labels = |text: String| text.replace("labels.csv", labels.to_str().unwrap());
    let begin = with_labels(file("keep-files = 100", &first));
    let socket = folder.path().join("control.sock");
    let socket = socket.to_str().unwrap();
    let mut service = Service::start(&lab, &["--control", socket], &begin);
    // What the status tells of the store: files, and how many it may have.
    let wait_for_store = |files: u64, limit: u64| {
        wait_until("the store to be told", || {
            let mut command = common::vxtap_command(["status", "--json", "--control", socket]);
            let status: Value = serde_json::from_slice(&run(&mut command).stdout).unwrap();
            let store = &status["sinks"][0]["store"];
            (store["files"] == files && store["limit_files"] == limit).then_some(())
        });
    };
    lab.generate(TO_V4, "--pps 5000 --count 100");
    service.listener.wait_for(100);
    wait_for_store(9, 100);
    let lines = |path: &Path| fs::read_to_string(path).unwrap_or_default().lines().count();
    // The tenth file ends when another packet comes.
    wait_until("the first program", || {
        (lines(&first_told) == 9).then_some(())
    });
    fs::write(&labels, "vni,name\n1,after\n").unwrap();
    let said = service.reload(&with_labels(file("keep-files = 3", &second)));
    assert!(
        said.contains("taken: keep-files = 3; on-rotate = "),
        "{said}"
    );
    wait_for_store(3, 3);
    lab.generate(TO_V4, "--pps 5000 --count 50");
    service.listener.wait_for(150);
    wait_until("the second program", || {
        (lines(&second_told) >= 5).then_some(())
    });
    let store = service.dir().join("store");
    let ended = service.listener.end();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert_eq!(
        ended.summary["sessions"][0]["name"], "after",
        "{}",
        ended.summary
    );
    assert_eq!(lines(&first_told), 9, "{}", ended.said);
    let store = ended.dir.path().join(store.file_name().unwrap());
    let manifest = json_lines(&fs::read_to_string(store.join("MANIFEST.jsonl")).unwrap());
    let deleted = manifest
        .iter()
        .filter(|line| line["because"] == "keep_files");
    assert!(deleted.count() >= 10, "{manifest:?}");
    let files = fs::read_dir(&store).unwrap();
    let names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.filter(|name| name.ends_with(".pcapng")).count() <= 3);
}

/// `vxtap reload` asks through the control socket, also a run that has a terminal, and tells what came of it.
#[test]
fn reload_asks_a_run_and_tells_what_came_of_it() {
    let Some(lab) = Lab::new() else { return };
    let begin = settings("udp", r#"["10.77.0.1"]"#);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let socket = socket.to_str().unwrap();
    let service = Service::start(&lab, &["--control", socket], &begin);
    let reload = |flags: &[&str]| {
        let mut command = common::vxtap_command(["reload", "--control", socket]);
        run(command.args(flags))
    };
    let done = reload(&[]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(
        String::from_utf8_lossy(&done.stdout),
        format!("{READ}; none has changed\n")
    );
    service.write(&begin.replace("10.77.0.1", "10.77.0.0/16"));
    let done = reload(&["--json"]);
    let told: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(
        told["taken"],
        serde_json::json!(["allow = 10.77.0.0/16"]),
        "{told}"
    );
    service.write("[filters]\nallow = 5\n");
    let done = reload(&[]);
    assert_eq!(done.code, Some(2), "{}", done.stderr);
    assert!(
        done.stderr.contains(":2:9: invalid value '5' for allow"),
        "{}",
        done.stderr
    );
    assert!(
        done.stderr.contains("nothing has changed"),
        "{}",
        done.stderr
    );
    let ended = service.listener.end();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let done = reload(&[]);
    assert_ne!(done.code, Some(0), "nobody runs");
}
