use std::fs;
use std::process::Command;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use devices::{DiskError, DiskOp, DiskOutcome, DiskRequest};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

mod shared;

const MIB: u64 = 1 << 20;

fn write(offset: u64, data: &[u8]) -> DiskOp {
    let data = data.to_vec();
    DiskOp::Write { offset, data }
}

fn raw_image(dir: &TempDir, len: u64) -> PathBuf {
    let path = dir.path().join("disk.img");
    fs::File::create(&path).unwrap().set_len(len).unwrap();
    path
}

/// Makes a qcow2 with qemu-img, or says why the test is skipped.
fn qcow2_image(dir: &TempDir, args: &[&str]) -> Option<PathBuf> {
    let path = dir.path().join("disk.qcow2");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .args(&args[..args.len() - 1])
        .arg(&path)
        .args(&args[args.len() - 1..])
        .status();
    match made {
        Ok(status) => {
            assert!(status.success());
            Some(path)
        }
        Err(error) => {
            println!("skipped: qemu-img: {error}");
            None
        }
    }
}

fn qemu_img(args: &[&std::ffi::OsStr]) {
    let output = Command::new("qemu-img").args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

fn open_error(path: &Path, options: DiskOptions) -> String {
    let text = error_chain(&Disk::open(path, &options).unwrap_err());
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    println!("{text}");
    text
}

#[test]
fn bad_images_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let auto = DiskOptions::default();
    let qcow2 = DiskOptions {
        format: DiskFormat::Qcow2,
        ..auto
    };
    let at = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    assert!(open_error(&dir.path().join("none.img"), auto).contains("does not exist"));
    assert!(open_error(&at("empty.img", b""), auto).contains("is empty"));
    assert!(open_error(&at("odd.img", &[1; 1000]), auto).contains("1000 bytes"));
    assert!(open_error(dir.path(), auto).contains("neither a file nor a block device"));
    assert!(open_error(&at("a.qcow2", b"QFI\xfb\0\0\0\x03"), auto).contains("truncated"));
    assert!(open_error(&at("b.qcow2", &[7; 4096]), qcow2).contains("can't open qcow2"));
}

fn exercise(options: DiskOptions, path: &Path) {
    let disk = Disk::open(path, &options).unwrap();
    assert_eq!(disk.capacity_bytes(), 4 * MIB);
    // Larger than a bounce buffer, at offsets that no 4 KiB unit begins at.
    let pattern: Vec<u8> = (0..2 * MIB as usize + 512)
        .map(|i| (i / 512 % 251) as u8 + 1)
        .collect();
    assert_eq!(disk.perform(&write(3 * 512, &pattern)), DiskOutcome::Done);
    assert_eq!(disk.perform(&DiskOp::Flush), DiskOutcome::Done);
    let read = DiskOp::Read {
        offset: 0,
        len: 3 * MIB as u32,
    };
    let DiskOutcome::Read(back) = disk.perform(&read) else {
        panic!("read failed")
    };
    assert!(back[..1536].iter().all(|&byte| byte == 0));
    assert!(back[1536..1536 + pattern.len()] == pattern);
    assert!(back[1536 + pattern.len()..].iter().all(|&byte| byte == 0));
    let discard = DiskOp::Discard {
        offset: MIB,
        len: MIB,
    };
    assert_eq!(disk.perform(&discard), DiskOutcome::Done);
    let mut odd = [0; 777];
    disk.read_exact_at(1537, &mut odd).unwrap();
    assert_eq!(odd[..], pattern[1..778]);
    for op in [
        write(4 * MIB, &[0; 512]),
        write(u64::MAX - 100, &[0; 512]),
        DiskOp::Discard {
            offset: 512,
            len: u64::MAX,
        },
        DiskOp::Read {
            offset: 4 * MIB - 512,
            len: 1024,
        },
    ] {
        assert_eq!(disk.perform(&op), DiskOutcome::Failed(DiskError::Io));
    }
    drop(disk);
    let read_only = DiskOptions {
        read_only: true,
        ..options
    };
    let disk = Disk::open(path, &read_only).unwrap();
    let failed = DiskOutcome::Failed(DiskError::Io);
    assert_eq!(disk.perform(&write(0, &[1; 512])), failed);
    assert_eq!(disk.perform(&DiskOp::Flush), DiskOutcome::Done);
    assert_eq!(disk.perform(&read), {
        let mut again = vec![0; 3 * MIB as usize];
        disk.read_exact_at(0, &mut again).unwrap();
        DiskOutcome::Read(again)
    });
}

#[test]
fn raw_through_the_page_cache() {
    let dir = tempfile::tempdir().unwrap();
    exercise(DiskOptions::default(), &raw_image(&dir, 4 * MIB));
}

/// A temporary directory on a file system with O_DIRECT, or a printed reason.
fn direct_dir() -> Option<TempDir> {
    let dir = tempfile::tempdir().unwrap();
    let options = DiskOptions {
        direct: true,
        ..DiskOptions::default()
    };
    match Disk::open(&raw_image(&dir, MIB), &options) {
        Err(OpenError::NoDirect { .. }) => {
            println!("skipped: no O_DIRECT in {}", dir.path().display());
            None
        }
        _ => Some(dir),
    }
}

#[test]
fn raw_with_direct_io() {
    let Some(dir) = direct_dir() else { return };
    let options = DiskOptions {
        direct: true,
        ..DiskOptions::default()
    };
    exercise(options, &raw_image(&dir, 4 * MIB));
}

#[test]
fn direct_io_in_4096_byte_units_keeps_neighbours() {
    let dir = tempfile::tempdir().unwrap();
    let path = raw_image(&dir, 64 * 1024);
    let file = raw::open_file(&path, false, false).unwrap();
    let image = raw::RawImage::with_granule(file, 64 * 1024, 4096);
    let all: Vec<u8> = (0..65536u32).map(|i| (i / 512) as u8).collect();
    image.write_at(0, &all).unwrap();
    let mut expected = all;
    for (offset, len) in [(512, 512), (3584, 1024), (8192, 4096), (12800, 20480)] {
        let data = vec![0xee; len];
        image.write_at(offset as u64, &data).unwrap();
        expected[offset..offset + len].copy_from_slice(&data);
    }
    let mut back = vec![0; 65536];
    image.read_at(0, &mut back).unwrap();
    assert!(back == expected);
    let mut part = vec![0; 1024];
    image.read_at(3584, &mut part).unwrap();
    assert_eq!(part, expected[3584..4608]);
}

#[test]
fn qcow2_reads_writes_and_stays_sound() {
    let dir = tempfile::tempdir().unwrap();
    let Some(path) = qcow2_image(&dir, &["4M"]) else {
        return;
    };
    exercise(DiskOptions::default(), &path);
    qemu_img(&["check".as_ref(), "-q".as_ref(), path.as_ref()]);
    let bytes = fs::read(&path).unwrap();
    let cut = dir.path().join("cut.qcow2");
    for len in [0, 3, 70, 65536, bytes.len() - 600_000] {
        fs::write(&cut, &bytes[..len]).unwrap();
        let text = open_error(&cut, DiskOptions::default());
        assert!(
            text.contains("truncated") || text.contains("empty"),
            "{text}"
        );
    }
}

#[test]
fn the_identity_is_of_the_contents() {
    let dir = tempfile::tempdir().unwrap();
    let raw = raw_image(&dir, 4 * MIB);
    let Some(qcow2) = qcow2_image(&dir, &["4M"]) else {
        return;
    };
    let raw = Disk::open(&raw, &DiskOptions::default()).unwrap();
    let qcow2 = Disk::open(&qcow2, &DiskOptions::default()).unwrap();
    for disk in [&raw, &qcow2] {
        for (offset, byte) in [(0, 1), (MIB, 2), (4 * MIB - 512, 3)] {
            disk.perform(&write(offset, &[byte; 512]));
        }
    }
    let before = raw.identity().unwrap();
    assert_eq!(before, qcow2.identity().unwrap());
    raw.perform(&write(8192, &[9; 512]));
    let after = raw.identity().unwrap();
    assert_ne!(before, after);
    assert!(before.matches_running(&after));
    raw.perform(&write(512, &[9; 512]));
    assert!(!before.matches_running(&raw.identity().unwrap()));
    println!("{before}");
}

#[test]
fn a_probed_qcow2_may_not_name_other_files() {
    let dir = tempfile::tempdir().unwrap();
    let base = raw_image(&dir, 4 * MIB);
    fs::write(&base, vec![0x5a; 4 * MIB as usize]).unwrap();
    let base_arg = base.to_str().unwrap();
    let Some(path) = qcow2_image(&dir, &["-b", base_arg, "-F", "raw", "4M"]) else {
        return;
    };
    let disguised = dir.path().join("looks-raw.img");
    fs::copy(&path, &disguised).unwrap();
    let auto = DiskOptions::default();
    let text = open_error(&disguised, auto);
    assert!(text.contains("refers to another file"), "{text}");
    let explicit = DiskOptions {
        format: DiskFormat::Qcow2,
        ..auto
    };
    for (path, options) in [(&path, auto), (&disguised, explicit)] {
        let disk = Disk::open(path, &options).unwrap();
        let mut byte = [0];
        disk.read_exact_at(MIB, &mut byte).unwrap();
        assert_eq!(byte, [0x5a]);
    }
    fs::remove_file(&base).unwrap();
    assert!(open_error(&path, auto).contains("disk.img"));
}

type Done = Receiver<(u64, DiskOutcome)>;

fn start(path: &Path, direct: bool) -> (DiskWorker, Done) {
    let options = DiskOptions {
        direct,
        ..DiskOptions::default()
    };
    let disk = Arc::new(Disk::open(path, &options).unwrap());
    let (sender, receiver) = channel();
    let completion = move |id, outcome| sender.send((id, outcome)).unwrap();
    let worker = DiskWorker::start(0, disk, Box::new(completion)).unwrap();
    (worker, receiver)
}

fn hammer(path: &Path, direct: bool) {
    let (worker, done) = start(path, direct);
    let mut model = vec![0u8; MIB as usize];
    let mut expected = std::collections::HashMap::new();
    let mut seed = 12345u64;
    let mut random = |bound: u64| {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) % bound
    };
    for id in 0..4000 {
        // A small area, so that most requests overlap one in flight.
        let offset = random(64) * 512;
        let len = (random(16) + 1) * 512;
        let range = offset as usize..(offset + len) as usize;
        let op = match random(8) {
            0..4 => {
                expected.insert(id, DiskOutcome::Read(model[range].to_vec()));
                DiskOp::Read {
                    offset,
                    len: len as u32,
                }
            }
            4 => DiskOp::Flush,
            _ => {
                model[range].fill(id as u8);
                write(offset, &vec![id as u8; len as usize])
            }
        };
        expected.entry(id).or_insert(DiskOutcome::Done);
        worker.submit(DiskRequest { disk: 0, id, op });
    }
    worker.drain();
    assert_eq!(worker.in_flight(), 0);
    drop(worker);
    let mut count = 0;
    for (id, outcome) in done.try_iter() {
        assert!(expected.remove(&id).unwrap() == outcome, "request {id}");
        count += 1;
    }
    assert_eq!(count, 4000);
    assert!(fs::read(path).unwrap()[..64 * 512] == model[..64 * 512]);
}

#[test]
fn overlapping_requests_in_flight_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    hammer(&raw_image(&dir, MIB), false);
}

#[test]
fn overlapping_requests_in_flight_keep_their_order_with_direct_io() {
    let Some(dir) = direct_dir() else { return };
    hammer(&raw_image(&dir, MIB), true);
}

#[test]
fn a_disk_that_shrinks_fails_requests_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = raw_image(&dir, MIB);
    let (worker, done) = start(&path, false);
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(4096)
        .unwrap();
    for (id, offset) in [(0, 8192), (1, 0)] {
        let op = DiskOp::Read { offset, len: 512 };
        worker.submit(DiskRequest { disk: 0, id, op });
    }
    let wait = Duration::from_secs(10);
    let mut outcomes = [
        done.recv_timeout(wait).unwrap(),
        done.recv_timeout(wait).unwrap(),
    ];
    outcomes.sort_by_key(|(id, _)| *id);
    assert_eq!(outcomes[0], (0, DiskOutcome::Failed(DiskError::Io)));
    assert_eq!(outcomes[1], (1, DiskOutcome::Read(vec![0; 512])));
}

/// Writes wait for a word each; the other end of the channel counts them.
struct Slow {
    go: Mutex<Receiver<()>>,
    writes: Arc<AtomicUsize>,
}

impl Image for Slow {
    fn capacity(&self) -> u64 {
        MIB
    }

    fn granule(&self) -> u64 {
        1
    }

    fn workers(&self) -> usize {
        2
    }

    fn read_at(&self, _offset: u64, _buf: &mut [u8]) -> io::Result<()> {
        Ok(())
    }

    fn write_at(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        let _ = self.go.lock().unwrap().recv();
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_retired_worker_starts_nothing_more_and_waits_for_what_runs() {
    let (word, go) = channel();
    let writes = Arc::new(AtomicUsize::new(0));
    let image = Slow {
        go: Mutex::new(go),
        writes: Arc::clone(&writes),
    };
    let disk = Disk {
        path: "slow".into(),
        format: DiskFormat::Raw,
        read_only: false,
        capacity: MIB,
        image: Box::new(image),
        identity: None,
        failures: AtomicU64::new(0),
        abandoned: AtomicBool::new(false),
        written: Written::new(MIB),
    };
    let worker = DiskWorker::start(0, Arc::new(disk), Box::new(|_, _| {})).unwrap();
    for id in 0..3 {
        // To the same place, so one after the other.
        let op = write(0, &[1; 512]);
        worker.submit(DiskRequest { disk: 0, id, op });
    }
    while writes.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    assert!(!worker.retire(Duration::from_millis(20)), "one still runs");
    word.send(()).unwrap();
    assert!(worker.retire(Duration::from_secs(20)));
    // Neither of these waits for the two that were never started.
    worker.finish();
    drop(worker);
    assert_eq!(writes.load(Ordering::SeqCst), 1);
}

#[test]
fn an_abandoned_disk_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let Some(path) = qcow2_image(&dir, &["4M"]) else {
        return;
    };
    let (worker, done) = start(&path, false);
    let op = write(0, &[1; 65536]);
    worker.submit(DiskRequest { disk: 0, id: 0, op });
    worker.drain();
    assert_eq!(done.try_recv(), Ok((0, DiskOutcome::Done)));
    let before = fs::read(&path).unwrap();
    let disk = Arc::clone(worker.disk());
    worker.abandon();
    let op = write(MIB, &[2; 512]);
    let failed = DiskOutcome::Failed(DiskError::Io);
    assert_eq!(disk.perform(&op), failed);
    assert_eq!(disk.perform(&DiskOp::Flush), failed);
    worker.submit(DiskRequest { disk: 0, id: 1, op });
    drop(worker);
    drop(disk);
    // The threads end by themselves and drop the image, which would flush its metadata.
    std::thread::sleep(Duration::from_millis(200));
    assert!(done.try_recv().is_err());
    assert!(fs::read(&path).unwrap() == before);
}

/// A loop device on `path`, with sectors of 4096 bytes; detached when dropped.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn new(path: &Path) -> Option<LoopDevice> {
        let output = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", "4096"])
            .arg(path)
            .output();
        match output {
            Ok(output) if output.status.success() => {
                let device = String::from_utf8(output.stdout).unwrap();
                Some(LoopDevice(device.trim().into()))
            }
            other => {
                println!("skipped: no loop device to be had: {other:?}");
                None
            }
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

#[test]
fn block_devices_with_large_sectors() {
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = LoopDevice::new(&raw_image(&dir, 4 * MIB)) else {
        return;
    };
    let cached = DiskOptions::default();
    let direct = DiskOptions {
        direct: true,
        ..cached
    };
    assert_eq!(
        Disk::open(&device.0, &direct).unwrap().image.granule(),
        4096
    );
    exercise(direct, &device.0);
    let zeros = DiskOp::Discard {
        offset: 0,
        len: 4 * MIB,
    };
    let disk = Disk::open(&device.0, &cached).unwrap();
    assert_eq!(disk.perform(&zeros), DiskOutcome::Done);
    drop(disk);
    exercise(cached, &device.0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// No header or table, however wrong, makes opening or reading panic or take long.
    #[test]
    fn corrupt_qcow2_is_survived(
        changes in prop::collection::vec((0usize..0x50200, any::<u8>()), 1..12),
        header in prop::collection::vec((0usize..112, any::<u8>()), 0..6),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let Some(path) = qcow2_image(&dir, &["4M"]) else { return Ok(()) };
        Disk::open(&path, &DiskOptions::default()).unwrap().perform(&write(0, &[1; 66000]));
        let mut bytes = fs::read(&path).unwrap();
        for (at, byte) in changes.into_iter().chain(header) {
            if let Some(target) = bytes.get_mut(at) {
                *target = byte;
            }
        }
        fs::write(&path, &bytes).unwrap();
        let options = DiskOptions { format: DiskFormat::Qcow2, ..DiskOptions::default() };
        if let Ok(disk) = Disk::open(&path, &options) {
            let len = disk.capacity_bytes().min(65536) as u32;
            disk.perform(&DiskOp::Read { offset: 0, len });
            disk.perform(&write(0, &[2; 512]));
            disk.perform(&DiskOp::Flush);
        }
    }
}
