use super::super::testing::{FIRST, SECTOR, disk, gpt, mbr, mbr_logical};
use super::*;

fn volumes() -> Vec<Vec<u8>> {
    vec![vec![1; 4 * SECTOR], vec![2; 8 * SECTOR]]
}

fn table(bytes: Vec<u8>) -> Result<Option<Vec<Partition>>, ImageError> {
    read_table(&disk(bytes))
}

#[test]
fn a_gpt_is_read() {
    let partitions = table(gpt(&volumes())).unwrap().unwrap();
    assert_eq!(
        partitions[1],
        Partition {
            number: 2,
            start: ((FIRST + 4) * SECTOR) as u64,
            bytes: (8 * SECTOR) as u64,
            partuuid: "12345678-9abc-def0-0102-030405060701".into(),
        }
    );
}

#[test]
fn a_damaged_gpt_is_read_from_its_backup() {
    let good = gpt(&volumes());
    let expected = table(good.clone()).unwrap();
    // The header, its checksum, an entry.
    for at in [SECTOR + 3, SECTOR + 17, 2 * SECTOR + 40] {
        let mut damaged = good.clone();
        damaged[at] ^= 0xff;
        assert_eq!(table(damaged).unwrap(), expected, "{at}");
    }
}

#[test]
fn a_gpt_without_a_good_copy_is_an_error() {
    let mut damaged = gpt(&volumes());
    let last = damaged.len() - SECTOR;
    damaged[SECTOR + 17] ^= 1;
    damaged[last + 17] ^= 1;
    assert_eq!(
        table(damaged.clone()).unwrap_err().to_string(),
        "the partition table is damaged: the checksum of the GPT header in block 1 is wrong, and \
         there is no good backup at its end; repair it (sgdisk, sfdisk) or give --kernel and \
         --initrd to boot files from outside the image"
    );
    damaged[SECTOR] = 0;
    damaged[last] = 0;
    let message = table(damaged).unwrap_err().to_string();
    assert!(message.contains("announces a GPT"), "{message}");
}

#[test]
fn a_truncated_disk_is_said_to_be_truncated() {
    let mut short = gpt(&volumes());
    short.truncate((FIRST + 6) * SECTOR);
    assert_eq!(
        table(short).unwrap_err().to_string(),
        "the disk image is truncated: partition 2 ends at byte 38912 and the image has 35840; \
         copy it again"
    );
}

#[test]
fn an_mbr_is_read_with_its_logical_partitions() {
    let primary = table(mbr(&volumes())).unwrap().unwrap();
    assert_eq!(primary[0].partuuid, "deadbeef-01");
    assert_eq!(primary[1].number, 2);
    let logical = table(mbr_logical(&volumes())).unwrap().unwrap();
    assert_eq!(logical.len(), 2);
    assert_eq!(logical[0].number, 5);
    assert_eq!(logical[0].start, ((FIRST + 1) * SECTOR) as u64);
    assert_eq!(logical[1].number, 6);
    assert_eq!(logical[1].start, ((FIRST + 6) * SECTOR) as u64);
}

#[test]
fn logical_partitions_in_a_circle_are_an_error() {
    let mut circle = mbr_logical(&volumes());
    // The next record of the first is made the first itself.
    let next = FIRST * SECTOR + 462 + 8;
    circle[next..next + 4].fill(0);
    let message = table(circle).unwrap_err().to_string();
    assert!(message.contains("runs in a circle"), "{message}");
}

#[test]
fn a_disk_without_a_table_has_none() {
    assert_eq!(table(vec![0; 100]).unwrap(), None);
    assert_eq!(table(vec![0; 8192]).unwrap(), None);
    assert_eq!(table(mbr(&[])).unwrap(), None);
}
