//! `vxtap extract` over compressed stores: what comes out is what is in their content, and only the frames that hold it
//! are read.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::extract::{
    Found, Stored, assert_same, content_of, display_filter, extract, extract_some, generate,
    parts_of, tshark,
};
use common::{Frame, frames, json_lines, run, tool, vxtap};
use serde_json::Value;

/// The ways of compressing, and what names end in.
const CODECS: [(&str, &str); 2] = [("zstd", "zst"), ("gzip", "gz")];

/// An index has at most so much of its file, and 1 KiB.
#[track_caller]
fn assert_indexes_are_small(store: &Path) {
    let mut indexes = 0;
    for entry in fs::read_dir(store).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "idx") {
            let [index, file] = [&path, &path.with_extension("")].map(|path| {
                let meta = path.metadata().unwrap();
                meta.len()
            });
            assert!(index <= file / 50 + 1024, "{index} of {file}");
            indexes += 1;
        }
    }
    assert!(indexes > 0);
}

fn number(found: &Found, name: &str) -> u64 {
    found.summary[name].as_u64().unwrap()
}

/// One store of zstd, gzip and plain files: what is taken out by its indexes is what is taken out without them, and what
/// tshark finds in the decompressed files.
#[test]
fn a_mixed_store_gives_what_its_content_holds() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    let (store, mut flows) = (text("st/"), Vec::new());
    let ways = [
        &["--compress", "zstd"][..],
        &["--compress", "gzip", "--workers", "2"],
        &[],
        // Small frames.
        &[
            "--compress",
            "zstd",
            "--split",
            "vni",
            "--max-open-files",
            "4096",
        ],
        &[
            "--compress",
            "gzip",
            "--split",
            "vni",
            "--max-open-files",
            "4096",
        ],
    ];
    for (number, flags) in ways.iter().enumerate() {
        let (input, records) = (text("in.pcap"), text(&format!("flows{number}.jsonl")));
        generate(Path::new(&input), 3000, 150, &number.to_string());
        let words = ["replay", &input, "-w", &store, "--flows", &records];
        let words = words.into_iter().chain(["--rotate-packets", "900"]);
        let said = vxtap(words.chain(flags.iter().copied()));
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        let of_one = json_lines(&fs::read_to_string(&records).unwrap());
        flows.extend(
            of_one
                .into_iter()
                .step_by(75)
                .map(|flow| (flow, records.clone())),
        );
    }
    assert_indexes_are_small(&path("st"));
    // The same without indexes, and decompressed.
    fs::create_dir_all(path("bare")).unwrap();
    let mut decompressed = Vec::new();
    for entry in fs::read_dir(path("st")).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_name().unwrap().to_str().unwrap();
        if name.contains(".pcapng") && !name.ends_with(".idx") {
            fs::copy(&file, path("bare").join(name)).unwrap();
            let to = path(&format!("{name}.pcapng"));
            fs::write(&to, content_of(&file)).unwrap();
            decompressed.push(to);
        }
    }
    let endings = |ending: &str| {
        let of_it = |file: &&PathBuf| file.to_str().unwrap().ends_with(ending);
        decompressed.iter().filter(of_it).count()
    };
    assert!(endings(".pcapng.zst.pcapng") > 3 && endings(".pcapng.gz.pcapng") > 3);
    let whole = path("whole.pcapng");
    let peers = tool("mergecap") && tool("tshark");
    if peers {
        let merged = run(Command::new("mergecap")
            .arg("-w")
            .arg(&whole)
            .args(&decompressed));
        assert_eq!(merged.code, Some(0), "{}", merged.stderr);
    }
    let check = |ask: &[&str], filter: &str, flags: &[&str]| {
        let found = extract(&[&path("st")], &path("out.pcapng"), ask);
        assert_eq!(
            found.summary["files_read_whole"],
            Value::Array(vec![]),
            "{ask:?}"
        );
        let scanned = extract(&[&path("bare")], &path("bare.pcapng"), ask);
        assert_eq!(number(&scanned, "files_by_index"), 0);
        assert!(found.frames == scanned.frames, "{ask:?}");
        if peers {
            assert_same(found.frames, tshark(&whole, filter, flags), filter);
        }
    };
    for (flow, records) in &flows {
        let id = |name: &str| flow[name].as_str().unwrap();
        check(
            &["--flow", id("flow_id"), "--flows", records],
            &display_filter(flow),
            &[],
        );
        let filter = format!("communityid == \"{}\"", id("community_id"));
        let communityid = ["--enable-protocol", "communityid"];
        check(
            &["--community-id", id("community_id")],
            &filter,
            &communityid,
        );
        let ip = if flow["ip_v"] == 4 { "ip" } else { "ipv6" };
        let filter = format!("{ip}.addr == {}", id("src_ip"));
        check(&["--host", id("src_ip")], &filter, &[]);
    }
    check(
        &["--vni", "42"],
        "frame.interface_name contains \"vni42@\"",
        &[],
    );
    check(&["--truncated"], "frame.cap_len < frame.len", &[]);
    // Packets of one time may stand in any order: the two read them in the same.
    let found = extract(&[&path("st")], &path("out.pcapng"), &[]);
    let scanned = extract(&[&path("bare")], &path("bare.pcapng"), &[]);
    assert!(found.frames == scanned.frames && found.frames.len() == 15_000);
    // Files alone, which no manifest describes.
    let ask = ["--vni", "43"];
    let files: Vec<&Path> = decompressed.iter().map(PathBuf::as_path).collect();
    let expected = extract(&files, &path("bare.pcapng"), &ask);
    let found = extract(&[&path("st")], &path("out.pcapng"), &ask);
    assert_same(found.frames, expected.frames, "decompressed files");
}

/// Of a larger store few bytes are read. The traffic compresses better than any real one, so that its indexes have little
/// room.
#[test]
fn few_bytes_of_a_large_store_are_read() {
    for (codec, ending) in CODECS {
        let flags = ["--compress", codec, "--rotate-packets", "60000"];
        let stored = Stored::generated_of(120_000, 30_000, &flags);
        assert_indexes_are_small(&stored.store());
        let files = stored.files(&format!(".{ending}"));
        assert_eq!(files.len(), 2);
        let flow = &stored.flows[stored.flows.len() / 2];
        let (id, records) = (
            flow["flow_id"].as_str().unwrap(),
            stored.path("flows.jsonl"),
        );
        let found = stored.extract(&["--flow", id, "--flows", records.to_str().unwrap()]);
        let told = flow["pkts_o"].as_u64().unwrap() + flow["pkts_r"].as_u64().unwrap();
        assert_eq!(found.frames.len() as u64, told);
        let total: u64 = files
            .iter()
            .map(|file| file.metadata().unwrap().len())
            .sum();
        assert_eq!(number(&found, "bytes_total"), total);
        let read = number(&found, "bytes_read");
        assert!(read * 100 < total * 15, "{codec}: {read} of {total}");
        let all = frames(&fs::read(stored.all()).unwrap());
        // A hundredth of the time.
        let rfc3339 = |frame: &Frame| {
            let at = jiff::Timestamp::from_nanosecond(frame.ts_ns as i128).unwrap();
            at.to_string()
        };
        let (since, until) = (rfc3339(&all[70_000]), rfc3339(&all[71_200]));
        let found = stored.extract(&["--since", &since, "--until", &until]);
        assert!(found.frames == all[70_000..71_200]);
        let read = number(&found, "bytes_read");
        assert!(read * 100 < total * 6, "{codec}: {read} of {total}");
        assert_eq!(number(&found, "files_of_other_times"), 1);
        assert!(number(&found, "packets_read") < 3000);
    }
}

/// A frame that is damaged is named, and takes nothing with it but its own packets.
#[test]
fn a_damaged_frame_leaves_the_others() {
    for (codec, ending) in CODECS {
        let stored = Stored::generated_of(20_000, 100, &["--compress", codec]);
        let file = stored.files(&format!(".{ending}")).remove(0);
        let (good, parts) = (fs::read(&file).unwrap(), parts_of(&file));
        let written = fs::metadata(&file).unwrap().modified().unwrap();
        assert!(parts.len() > 6);
        let damage = |which: &[usize]| {
            let mut bytes = good.clone();
            for part in which.iter().map(|number| &parts[*number]) {
                bytes[part.at + part.len / 2] ^= 0x10;
            }
            fs::write(&file, bytes).unwrap();
            // A disk that fails leaves the time; a newer one would have the index passed over.
            File::options()
                .write(true)
                .open(&file)
                .unwrap()
                .set_modified(written)
                .unwrap();
            let rest = (0..parts.len()).filter(|number| !which.contains(number));
            let rest: Vec<u8> = rest
                .flat_map(|number| parts[number].content.clone())
                .collect();
            rest
        };
        let (store, out) = (stored.store(), stored.path("out.pcapng"));
        let middle = parts.len() / 2;
        for which in [&[middle][..], &[middle - 1, middle, middle + 2]] {
            let rest = frames(&damage(which));
            let of_vni = |frame: &Frame| frame.interface.starts_with("vni42@");
            let of_42: Vec<Frame> = rest.iter().filter(|frame| of_vni(frame)).cloned().collect();
            for (ask, expected) in [(&[][..], &rest), (&["--vni", "42"], &of_42)] {
                let found = extract_some(&[&store], &out, ask);
                assert_eq!(found.code, Some(1), "{}", found.said);
                assert!(found.frames == *expected, "{codec} {which:?} {ask:?}");
                for number in which {
                    let place = format!("{}: byte {}: ", file.display(), parts[*number].at);
                    assert!(found.said.contains(&place), "{place}: {}", found.said);
                }
                assert_eq!(
                    found.summary["errors"].as_array().unwrap().len(),
                    which.len()
                );
            }
            // The place of a packet behind it is the one that it has in the whole content.
            let content: Vec<u8> = parts.iter().flat_map(|part| part.content.clone()).collect();
            let before = parts[..middle].iter().map(|part| part.content.len()).sum();
            let since = frames(&content)[frames(&content[..before]).len()].ts_ns;
            let first = rest.iter().find(|frame| frame.ts_ns >= since).unwrap();
            let since = jiff::Timestamp::from_nanosecond(since as i128).unwrap();
            let found = extract_some(&[&store], &out, &["--since", &since.to_string()]);
            assert!(found.frames[0] == *first);
            let place = number(&found, "first_off") as usize;
            let len = u32::from_le_bytes(content[place + 4..place + 8].try_into().unwrap());
            let block = &content[place..place + len as usize];
            let mut within = block.windows(first.bytes.len());
            assert!(within.any(|bytes| bytes == first.bytes), "{place}");
        }
        // Where interfaces are described nothing behind it can be read: it would be given to others.
        damage(&[1]);
        let found = extract_some(&[&store], &out, &["--vni", "42"]);
        assert_eq!(
            (found.code, found.frames.len()),
            (Some(1), 0),
            "{}",
            found.said
        );
        let told = format!("byte {}: ", parts[1].at);
        assert!(found.said.contains(&told), "{}", found.said);
        assert!(
            found.said.contains("what follows cannot be read"),
            "{}",
            found.said
        );
        // Without its index the file is read up to there.
        let rest = damage(&[middle]);
        fs::remove_file(format!("{}.idx", file.display())).unwrap();
        let found = extract_some(&[&store], &out, &["--vni", "42"]);
        assert_eq!(found.code, Some(1), "{}", found.said);
        assert!(found.said.contains("it has no index"), "{}", found.said);
        assert!(!found.frames.is_empty() && found.frames.len() < frames(&rest).len() / 3);
    }
}

/// Interfaces that are described far behind the beginning are those of their packets.
#[test]
fn interfaces_in_the_middle_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let text = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (first, second, store) = (text("a.pcap"), text("b.pcap"), text("st/"));
    generate(Path::new(&first), 8000, 100, "1");
    // So many flows as their index has room for, and that of VNIs beside it.
    let words = ["send", "--generate", "--count", "8000", "--flows", "300"];
    let words =
        words
            .into_iter()
            .chain(["--vnis", "9", "--vni", "70", "--to", "192.0.2.9", "--write"]);
    let made = vxtap(words.chain([second.as_str()]));
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let words = [
        "replay",
        &first,
        &second,
        "-w",
        &store,
        "--compress",
        "zstd",
    ];
    let said = vxtap(words);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let is_capture = |path: &PathBuf| path.to_str().unwrap().ends_with(".zst");
    let files = fs::read_dir(&store)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let file = files.into_iter().find(is_capture).unwrap();
    let (out, all) = (dir.path().join("out.pcapng"), frames(&content_of(&file)));
    for vni in [41, 70, 78] {
        let name = format!("vni{vni}@");
        let expected = all
            .iter()
            .filter(|frame| frame.interface.starts_with(&name));
        let expected: Vec<Frame> = expected.cloned().collect();
        let found = extract(&[&file], &out, &["--vni", &vni.to_string()]);
        assert_eq!(number(&found, "files_by_index"), 1, "{}", found.said);
        assert_same(found.frames, expected, &name);
    }
    // Nothing of the first half is looked at for a VNI of the second, but its first frame.
    let found = extract(&[&file], &out, &["--vni", "75"]);
    assert!(number(&found, "packets_read") < 10_000);
}

/// An index that does not fit is of no use, and nothing is lost with it.
#[test]
fn an_index_that_does_not_fit_is_passed_over() {
    let flags = ["--compress", "zstd", "--rotate-packets", "2500"];
    let stored = Stored::generated(&flags);
    let indexes = stored.files(".idx");
    assert_eq!(indexes.len(), 3);
    let expected = stored.extract(&["--vni", "41"]).frames;
    assert!(!expected.is_empty());
    let good = fs::read(&indexes[1]).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 4;
    for (why, bytes) in [
        ("is damaged", flipped),
        ("is of a file of", fs::read(&indexes[0]).unwrap()),
        ("is no index of vxtap", b"garbage".to_vec()),
    ] {
        fs::write(&indexes[1], bytes).unwrap();
        let found = stored.extract(&["--vni", "41"]);
        assert!(found.frames == expected, "{why}");
        assert!(found.said.contains(why), "{why}: {}", found.said);
        assert_eq!(
            found.summary["files_read_whole"].as_array().unwrap().len(),
            1
        );
    }
    fs::remove_file(&indexes[1]).unwrap();
    let found = stored.extract(&["--vni", "41"]);
    assert!(found.frames == expected);
    assert!(found.said.contains("it has no index"), "{}", found.said);
}

/// What a killed run left is finished with the index that it would have had.
#[test]
fn recovered_files_have_an_index() {
    for (codec, ending) in CODECS {
        for format in ["pcapng", "pcap"] {
            let flags = ["--compress", codec, "--format", format];
            let stored = Stored::generated_of(8000, 500, &flags);
            let file = stored.files(&format!(".{ending}")).remove(0);
            let name = file.file_name().unwrap().to_str().unwrap();
            let (good, parts) = (fs::read(&file).unwrap(), parts_of(&file));
            let index = fs::read(format!("{}.idx", file.display())).unwrap();
            let last = &parts[parts.len() - 1];
            // All of it, and up to the middle of its last frame of packets.
            for cut in [good.len(), parts[parts.len() - 2].at + 100] {
                let left = stored.path("left");
                fs::create_dir(&left).unwrap();
                fs::write(left.join(format!(".{name}.part")), &good[..cut]).unwrap();
                let input = common::testdata("i-flag-clear.pcap");
                let words = ["replay", input.to_str().unwrap(), "--vni", "1", "-w"];
                let done = vxtap(words.into_iter().chain([left.to_str().unwrap()]));
                assert_eq!(done.code, Some(0), "{}", done.stderr);
                let again = fs::read(left.join(format!("{name}.idx"))).unwrap();
                if cut == good.len() {
                    assert!(last.at < cut);
                    assert!(again == index, "noted or scanned: the same");
                }
                assert_indexes_are_small(&left);
                let host = stored.flows[7]["src_ip"].as_str().unwrap();
                let (path, out) = (left.join(name), stored.path("out.pcapng"));
                let found = extract(&[&path], &out, &["--host", host]);
                assert_eq!(number(&found, "files_by_index"), 1, "{}", found.said);
                let verified = vxtap(["verify", left.to_str().unwrap()]);
                assert_eq!(verified.code, Some(0), "{}", verified.stderr);
                fs::remove_file(left.join(format!("{name}.idx"))).unwrap();
                let scanned = extract(&[&path], &out, &["--host", host]);
                assert!(found.frames == scanned.frames && !found.frames.is_empty());
                fs::remove_dir_all(&left).unwrap();
            }
        }
    }
}
