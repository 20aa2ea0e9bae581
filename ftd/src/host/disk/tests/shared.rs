//! Images that two hosts have.

use super::*;

/// As the two sides of a pair open a shared qcow2.
const SHARED: DiskOptions = DiskOptions {
    format: DiskFormat::Qcow2,
    read_only: false,
    direct: true,
    late: false,
};

/// A qcow2 where direct I/O works, with the directory that it goes with.
fn shared_qcow2(size: &str) -> Option<(TempDir, PathBuf)> {
    let dir = direct_dir()?;
    let path = qcow2_image(&dir, &[size])?;
    Some((dir, path))
}

#[test]
fn a_shared_qcow2_loses_nothing_with_the_host_that_wrote_it() {
    let Some((_dir, path)) = shared_qcow2("8M") else {
        return;
    };
    let disk = Disk::open(&path, &SHARED).unwrap();
    for (offset, byte) in [(0, 1), (3 * MIB + 512, 2), (8 * MIB - 512, 3)] {
        let outcome = disk.perform(&write(offset, &[byte; 512]));
        assert_eq!(outcome, DiskOutcome::Done);
    }
    // A power cut: what is in memory now is never written.
    disk.abandon();
    drop(disk);
    let disk = Disk::open(&path, &SHARED).unwrap();
    for (offset, byte) in [(0, 1), (3 * MIB + 512, 2), (8 * MIB - 512, 3)] {
        let mut back = [0; 512];
        disk.read_exact_at(offset, &mut back).unwrap();
        assert_eq!(back, [byte; 512], "at {offset}");
    }
    drop(disk);
    qemu_img(&["check".as_ref(), "-q".as_ref(), path.as_ref()]);
}

#[test]
fn a_backup_s_qcow2_is_as_the_primary_left_it() {
    let Some((_dir, path)) = shared_qcow2("8M") else {
        return;
    };
    let late = DiskOptions {
        late: true,
        ..SHARED
    };
    let primary = Disk::open(&path, &SHARED).unwrap();
    assert_eq!(primary.perform(&write(0, &[9; 512])), DiskOutcome::Done);
    let early = Disk::open(&path, &SHARED).unwrap();
    let backup = Disk::open(&path, &late).unwrap();
    assert_eq!(backup.capacity_bytes(), 8 * MIB);
    assert_eq!(backup.identity().unwrap(), primary.identity().unwrap());
    let mut byte = [0];
    early.read_exact_at(5 * MIB, &mut byte).unwrap();
    assert_eq!(
        primary.perform(&write(5 * MIB, &[7; 512])),
        DiskOutcome::Done
    );
    primary.abandon();
    drop(primary);
    // What is opened too early does not see it: that is what `late` is for.
    early.read_exact_at(5 * MIB, &mut byte).unwrap();
    assert_eq!(byte, [0]);
    early.abandon();
    backup.read_exact_at(5 * MIB, &mut byte).unwrap();
    assert_eq!(byte, [7]);
    assert_eq!(
        backup.perform(&write(6 * MIB, &[8; 512])),
        DiskOutcome::Done
    );
    assert_eq!(backup.perform(&DiskOp::Flush), DiskOutcome::Done);
    drop(backup);
    qemu_img(&["check".as_ref(), "-q".as_ref(), path.as_ref()]);
}

#[test]
fn a_backup_s_qcow2_that_is_never_needed_is_never_opened() {
    let Some((_dir, path)) = shared_qcow2("8M") else {
        return;
    };
    let late = DiskOptions {
        late: true,
        ..SHARED
    };
    let backup = Disk::open(&path, &late).unwrap();
    let before = fs::read(&path).unwrap();
    assert_eq!(backup.perform(&DiskOp::Flush), DiskOutcome::Done);
    backup.abandon();
    let failed = DiskOutcome::Failed(DiskError::Io);
    assert_eq!(backup.perform(&write(0, &[1; 512])), failed);
    let read = DiskOp::Read {
        offset: 0,
        len: 512,
    };
    assert_eq!(backup.perform(&read), failed);
    drop(backup);
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn a_backup_s_qcow2_that_was_resized_meanwhile_is_refused() {
    let Some((_dir, path)) = shared_qcow2("8M") else {
        return;
    };
    let late = DiskOptions {
        late: true,
        ..SHARED
    };
    let backup = Disk::open(&path, &late).unwrap();
    qemu_img(&[
        "resize".as_ref(),
        "-q".as_ref(),
        path.as_ref(),
        "16M".as_ref(),
    ]);
    let error = backup.read_exact_at(0, &mut [0; 512]).unwrap_err();
    let text = error_chain(&error);
    assert!(
        text.contains("16777216 bytes now and had 8388608"),
        "{text}"
    );
}

#[test]
fn a_shared_qcow2_reads_and_writes() {
    let Some((_dir, path)) = shared_qcow2("4M") else {
        return;
    };
    exercise(SHARED, &path);
    qemu_img(&["check".as_ref(), "-q".as_ref(), path.as_ref()]);
}
