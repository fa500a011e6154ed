//! Verification: whatever is damaged is named, whatever a crash leaves is not, and nothing is changed.

mod support;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use aqueduct_storage::sim::{OpKind, SimDisk};
use aqueduct_storage::{
    Audience, Batch, Durability, Fact, Finding, LogReader, Offset, PartitionLog, Severity, verify_log,
};
use support::model::{Action, Ended, Model};
use support::{ID, append, log_dir, open, small_options};

/// Keeps what it hears.
#[derive(Default)]
struct Heard {
    findings: Vec<Finding>,
    bytes: u64,
}

impl Audience for Heard {
    fn found(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    fn read(&mut self, bytes: u64) -> ControlFlow<()> {
        self.bytes += bytes;
        ControlFlow::Continue(())
    }
}

fn verified(disk: &SimDisk) -> Vec<Finding> {
    let mut heard = Heard::default();
    let checked = verify_log(&disk.shared(), &log_dir(), ID, &mut heard).expect("the disk is well");
    assert_eq!(checked.bytes, heard.bytes);
    heard.findings
}

fn damage(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|finding| finding.is_damage()).collect()
}

fn verified_online(reader: &LogReader) -> Vec<Finding> {
    let mut heard = Heard::default();
    reader.verify(&mut heard).expect("the disk is well");
    heard.findings
}

fn file(name: &str) -> PathBuf {
    log_dir().join(name)
}

/// Five segments, the last one active, closed, and every batch of them.
fn written() -> (SimDisk, Vec<Batch>) {
    let disk = SimDisk::new();
    let mut log = PartitionLog::create(disk.shared(), &log_dir(), ID, small_options()).expect("create");
    let sizes = [700, 1600, 900, 1000, 900, 300, 3000, 900, 2500, 40, 80];
    let batches = sizes.iter().flat_map(|bytes| append(&mut log, &[*bytes]).expect("append")).collect();
    log.close().expect("close");
    (disk, batches)
}

fn files(disk: &SimDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = disk.shared().list(&log_dir()).expect("the directory");
    let mut names: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
    names.sort();
    names.iter().map(|name| (file(name), disk.contents(&file(name)).expect("a file"))).collect()
}

#[test]
fn a_log_that_was_closed_is_whole() {
    let (disk, batches) = written();
    let mut heard = Heard::default();
    let checked = verify_log(&disk.shared(), &log_dir(), ID, &mut heard).expect("the disk is well");
    assert_eq!(heard.findings, []);
    assert_eq!((checked.batches, checked.records), (batches.len() as u64, 2 * batches.len() as u64));
    assert!(checked.segments >= 4 && checked.bytes > 10_000, "{checked:?}");
}

#[test]
fn every_flipped_bit_in_any_file_is_named_where_it_is() {
    let (disk, batches) = written();
    let end = batches.last().expect("some").header.next_offset();
    let mut flips = 0;
    for (path, content) in files(&disk) {
        let is_state = path.ends_with("partition.state");
        for byte in (0..content.len()).filter(|byte| !is_state || byte % 4096 < 192).step_by(3) {
            let disk = disk.after_kill();
            let bit = u8::try_from(byte % 8).expect("below 8");
            disk.flip_bit(&path, byte as u64, bit).expect("flip");
            let findings = verified(&disk);
            let context = format!("{} at byte {byte}: {findings:?}", path.display());
            let damage = damage(&findings);
            assert_eq!(damage.len(), 1, "{context}");
            assert_eq!(damage[0].file, path, "{context}");
            if let Some(bytes) = &damage[0].bytes {
                assert!(bytes.contains(&(byte as u64)), "{context}");
            }
            if let Fact::Batches(_) = damage[0].fact {
                let offsets = damage[0].offsets.clone().expect("damaged batches have offsets");
                assert!(!offsets.is_empty() && offsets.end <= end && offsets.end - offsets.start == 2, "{context}");
            }
            flips += 1;
        }
    }
    println!("{flips} bits flipped");
    assert!(flips > 4000);
}

#[test]
fn what_is_damaged_for_a_reader_is_what_verification_names() {
    let (disk, batches) = written();
    let position = 64 + batches[0].stored_bytes();
    disk.flip_bit(&file("00000000000000000000.log"), position + 100, 0).expect("flip");
    let findings = verified(&disk);
    let (log, _) = open(&disk.shared(), &log_dir()).expect("open");
    let online = verified_online(&log.reader());
    let found = damage(&findings);
    assert_eq!(found.len(), 1, "{findings:?}");
    assert_eq!(found[0].offsets, Some(2..4));
    assert_eq!(found[0].bytes, Some(position..position + batches[1].stored_bytes()));
    assert_eq!(damage(&online), found);
    assert!(log.reader().read(2, 1).is_err() && log.reader().read(4, 1).is_ok());
}

#[test]
fn files_that_are_gone_or_cut_are_named_with_the_offsets() {
    let (disk, batches) = written();
    let end = batches.last().expect("some").header.next_offset();
    let segments: Vec<(PathBuf, u64)> = files(&disk)
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "log"))
        .map(|(path, content)| (path, content.len() as u64))
        .collect();
    let base = |path: &Path| -> Offset {
        path.file_stem().and_then(|stem| stem.to_str()).expect("a name").parse().expect("a base")
    };
    for (at, (path, bytes)) in segments.iter().enumerate() {
        let next = segments.get(at + 1).map_or(end, |(next, _)| base(next));
        let lost = disk.after_kill();
        lost.lose(path).expect("lose");
        let findings = verified(&lost);
        let offsets: Vec<Offset> =
            damage(&findings).iter().filter_map(|finding| finding.offsets.clone()).flatten().collect();
        assert!(offsets.iter().copied().eq(base(path)..next), "{} is gone: {findings:?}", path.display());

        for kept in [0, 30, 64, bytes / 2, bytes - 1] {
            let cut = disk.after_kill();
            let content = cut.contents(path).expect("content");
            cut.overwrite(path, &content[..usize::try_from(kept).expect("small")]).expect("cut");
            let findings = verified(&cut);
            let context = format!("{} cut to {kept}: {findings:?}", path.display());
            assert!(!damage(&findings).is_empty(), "{context}");
            assert!(damage(&findings).iter().all(|finding| finding.file == *path), "{context}");
        }
    }
}

#[test]
fn an_index_that_is_intact_and_lies_is_found_out() {
    let (disk, _) = written();
    let path = file("00000000000000000000.index");
    let honest = disk.contents(&path).expect("index");
    for (what, at) in [("offset", 64 + 24), ("position", 64 + 24 + 8), ("time", 64 + 24 + 16), ("extent", 24)] {
        let mut lie = honest.clone();
        lie[at] ^= 2;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&ID.0);
        hasher.update(&lie[..8]);
        hasher.update(&lie[12..]);
        lie[8..12].copy_from_slice(&hasher.finalize().to_le_bytes());
        let disk = disk.after_kill();
        disk.overwrite(&path, &lie).expect("overwrite");
        let findings = verified(&disk);
        assert!(matches!(damage(&findings)[..], [Finding { fact: Fact::Index(_), .. }]), "{what}: {findings:?}");
    }
    disk.lose(&path).expect("lose");
    let findings = verified(&disk);
    assert!(matches!(findings[..], [Finding { fact: Fact::IndexMissing, .. }]), "{findings:?}");
}

fn workload() -> Vec<Action> {
    vec![
        Action::Append(vec![10]),
        Action::Append(vec![100, 1200, 600]),
        Action::Append(vec![1500]),
        Action::RaiseEpoch,
        Action::Append(vec![2500]),
        Action::Reopen,
        Action::Append(vec![700]),
        Action::Trim(300),
        Action::Append(vec![600, 600]),
        Action::Append(vec![3000]),
        Action::Retain(4096),
        Action::Append(vec![40]),
        Action::Trim(1000),
        Action::Append(vec![50, 60]),
    ]
}

fn operations_in(durability: Durability) -> u64 {
    let disk = SimDisk::new();
    assert!(matches!(Model::new(durability).run(&disk, &workload()), Ended::Done(_)));
    disk.operation_count()
}

#[test]
fn what_a_kill_leaves_at_any_operation_is_no_damage_and_is_not_touched() {
    for durability in [Durability::Fsync, Durability::Os] {
        for crash_at in 0..=operations_in(durability) {
            let disk = SimDisk::new();
            disk.crash_at(crash_at);
            drop(Model::new(durability).run(&disk, &workload()));
            let disk = disk.after_kill();
            let findings = verified(&disk);
            assert!(damage(&findings).is_empty(), "{durability:?}, kill at operation {crash_at}: {findings:?}");
            let looks = |op: OpKind| matches!(op, OpKind::Open | OpKind::Read | OpKind::List);
            assert!(disk.operations().iter().all(|operation| looks(operation.op)), "{:?}", disk.operations());
        }
    }
}

#[test]
fn what_a_power_loss_leaves_is_no_damage_but_for_what_is_no_evidence() {
    for crash_at in 0..=operations_in(Durability::Fsync) {
        for seed in 0..20 {
            let disk = SimDisk::new();
            disk.crash_at(crash_at);
            drop(Model::new(Durability::Fsync).run(&disk, &workload()));
            let findings = verified(&disk.after_power_loss(seed));
            let is_evidence = |finding: &Finding| {
                // Indexes are never synced, and a sector may be torn in the middle of a slot: neither costs anything.
                finding.fact.severity() == Severity::Damage && !matches!(finding.fact, Fact::Index(_) | Fact::StateSlot)
            };
            assert!(!findings.iter().any(is_evidence), "power loss at {crash_at}, seed {seed}: {findings:?}");
        }
    }
}

#[test]
fn what_was_opened_after_a_kill_is_whole_after_a_power_loss() {
    for crash_at in 0..=operations_in(Durability::Fsync) {
        let killed = SimDisk::new();
        killed.crash_at(crash_at);
        let mut model = Model::new(Durability::Fsync);
        drop(model.run(&killed, &workload()));
        let disk = killed.after_kill();
        let context = format!("kill at operation {crash_at}");
        let Some(log) = model.reopen(&disk, &context) else { continue };
        drop(log);
        model.created = true;
        for seed in 0..6 {
            let context = format!("{context}, then power loss, seed {seed}");
            let disk = disk.after_power_loss(seed);
            let findings = verified(&disk);
            let of_no_evidence = |finding: &&Finding| matches!(finding.fact, Fact::Index(_) | Fact::StateSlot);
            let named: Vec<&Finding> =
                damage(&findings).into_iter().filter(|finding| !of_no_evidence(finding)).collect();
            assert!(named.is_empty(), "{context}: {named:?}");
            model.clone().reopen(&disk, &context).expect("it was open before");
        }
    }
}

#[test]
fn a_torn_tail_is_a_note_that_says_what_the_next_start_will_do() {
    let disk = SimDisk::new();
    let mut log = PartitionLog::create(disk.shared(), &log_dir(), ID, small_options()).expect("create");
    append(&mut log, &[100]).expect("append");
    append(&mut log, &[200, 300]).expect("append");
    drop(log);
    let path = file("00000000000000000000.log");
    let mut torn = disk.contents(&path).expect("segment");
    let end = torn.iter().rposition(|byte| *byte != 0).expect("bytes") + 1;
    torn.truncate(end - 20);
    torn.resize(torn.len() + 700, 0);
    disk.overwrite(&path, &torn).expect("tear");
    let findings = verified(&disk);
    assert!(damage(&findings).is_empty(), "{findings:?}");
    let tail = findings.iter().find_map(|finding| match &finding.fact {
        Fact::TornTail(tail) => Some((finding.offsets.clone(), tail.cut_bytes)),
        _ => None,
    });
    let (kept, cut_bytes) = tail.expect("a torn tail");
    let (log, report) = open(&disk.shared(), &log_dir()).expect("open");
    assert_eq!(kept, Some(2..log.log_end()));
    assert_eq!(cut_bytes, report.cut_bytes);
    assert!(damage(&verified_online(&log.reader())).is_empty());
}

#[test]
fn a_log_that_is_written_and_trimmed_is_verified_up_to_its_high_watermark() {
    let disk = SimDisk::new();
    let mut log = PartitionLog::create(disk.shared(), &log_dir(), ID, small_options()).expect("create");
    let reader = log.reader();
    for round in 0..60 {
        append(&mut log, &[500, 700]).expect("append");
        let group = support::next_group(&log, &[300]);
        let written = log.write_group(&group).expect("written, and not published");
        assert_eq!(verified_online(&reader), [], "round {round}");
        log.publish(aqueduct_storage::Committer::commit(&aqueduct_storage::SyncEachGroup, written)).expect("published");
        if round % 7 == 0 {
            log.trim(log.log_end().saturating_sub(9)).expect("trim");
        }
    }
}
