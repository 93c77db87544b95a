//! Names of mirror sessions, and those that there should be.

mod common;

use std::process::Command;

use common::{replay, run, testdata, tool, vxtap};
use serde_json::json;

#[test]
fn names_and_what_was_expected() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let labels = write(
        "labels.csv",
        "vni,source,name,account,mtu\n101,10.0.1.11,web-1,shop,\n202,,db,shop,8500\n",
    );
    let expected = write(
        "expected.csv",
        "# what the console lists\nvni,source,name\n101,10.0.1.11,\n202,10.0.2.21,\n303,10.0.3.31,batch\n",
    );
    let demo = testdata("demo.pcap");
    let demo = demo.to_str().unwrap();
    let run = |workers: &str| {
        let flags = [
            "--labels",
            &labels,
            "--expect",
            &expected,
            "--silent-after",
            "1s",
        ];
        replay([&[demo, "--workers", workers][..], &flags].concat())
    };
    let (one, three) = (run("1"), run("3"));
    assert_eq!(one.run.code, Some(0), "{}", one.run.stderr);
    assert_eq!(one.summary["sessions"], three.summary["sessions"]);
    assert_eq!(one.summary["inventory"], three.summary["inventory"]);
    let session = one.session(101, "10.0.1.11");
    assert_eq!(
        (&session["name"], &session["account"]),
        (&json!("web-1"), &json!("shop"))
    );
    assert!(one.session(101, "10.0.1.12").get("name").is_none());
    assert_eq!(one.session(202, "10.0.2.21")["name"], "db");
    let inventory = &one.summary["inventory"];
    assert_eq!(inventory["expected"], 3);
    assert_eq!(
        inventory["missing"],
        json!([{"vni": 303, "source": "10.0.3.31", "name": "batch"}])
    );
    assert_eq!(
        inventory["unexpected"],
        json!([{"vni": 101, "source": "10.0.1.12"}])
    );
    // The last packet of all is one of VNI 101 or 202: whoever sent nothing in the last second is silent.
    let last = one
        .sessions()
        .iter()
        .map(|session| session["last_seen"].as_str().unwrap())
        .max()
        .unwrap();
    for silent in inventory["silent"].as_array().unwrap() {
        assert!(silent["last_seen"].as_str().unwrap() < last);
    }
    let page = &one.run.stderr;
    assert!(
        page.contains("2 of 3 expected sessions sent packets"),
        "{page}"
    );
    assert!(
        page.contains("nothing came: VNI 303 from 10.0.3.31 (batch)"),
        "{page}"
    );
    assert!(page.contains("10.0.1.11 (web-1)"), "{page}");
}

/// What cannot be read is told with file and line, and nothing is written.
#[test]
fn tables_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.csv");
    let path = path.to_str().unwrap();
    let demo = testdata("demo.pcap");
    for (text, words) in [
        ("source\n10.0.0.1\n", "line 1"),
        ("vni,source\n1,10.0.0.1\n1,10.0.0.300\n", "line 3"),
        ("vni\n1\n1\n", "line 3"),
    ] {
        std::fs::write(path, text).unwrap();
        for flag in ["--labels", "--expect"] {
            let run = vxtap(["replay", demo.to_str().unwrap(), flag, path]);
            assert_eq!(run.code, Some(2));
            assert!(run.stderr.contains(words), "{}", run.stderr);
            assert!(
                run.stderr.contains(&format!("{flag} {path}")),
                "{}",
                run.stderr
            );
        }
    }
    let run = vxtap([
        "replay",
        demo.to_str().unwrap(),
        "--labels",
        "/nowhere/t.csv",
    ]);
    assert_eq!(run.code, Some(2));
    assert!(
        run.stderr.contains("cannot read --labels /nowhere/t.csv"),
        "{}",
        run.stderr
    );
}

/// What a session is called stands in its interface's description, and a replay of the capture knows the session.
#[test]
fn the_capture_has_the_names() {
    let dir = tempfile::tempdir().unwrap();
    let labels = dir.path().join("labels.csv");
    let long = "x".repeat(300);
    let lines = format!("vni,source,name\n101,10.0.1.11,the web = shop\n202,10.0.2.21,{long}é\n");
    std::fs::write(&labels, lines).unwrap();
    let demo = testdata("demo.pcap");
    let labelled = replay([demo.to_str().unwrap(), "--labels", labels.to_str().unwrap()]);
    let capture = labelled.capture();
    if tool("capinfos") {
        let told = run(Command::new("capinfos").arg(&capture));
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(
            told.contains("tunnel=vxlan label=the web = shop\n"),
            "{told}"
        );
        assert!(
            told.contains(&format!("label={}\n", "x".repeat(128))),
            "{told}"
        );
        assert_eq!(told.matches("label=").count(), 2, "{told}");
    }
    let again = replay([capture.to_str().unwrap(), "--plain"]);
    assert_eq!(again.sessions().len(), labelled.sessions().len());
    let target = &labelled.session(101, "10.0.1.11")["target"];
    assert_eq!(&again.session(101, "10.0.1.11")["target"], target);
}
