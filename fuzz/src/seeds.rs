//! Writes what a fuzzer would hardly find by itself: whole messages, states, logs, kernels. `seeds FOLDER`
//! makes `FOLDER/TARGET/seed-NAME`; the folder is `fuzz/corpus`. To be run when a format has changed.

use std::io::Write as _;
use std::path::Path;

use devices::layout::{IOAPIC_BASE, VIRTIO_MMIO_BASE};
use devices::machine::Machine;
use devices::{Console, DiskError, DiskOutcome, Input};
use ftd::arbiter::paxos::Block;
use ftd::arbiter::record::Record;
use fuzz::ram::Ram;
use replay::frame::{encode, encode_epoch_into};
use replay::log::{LogHeader, LogWriter};
use replay::protocol::{
    Ack, ByeReason, Commit, DiskFacts, EndReason, Facts, Hello, Join, Message, PROTOCOL_VERSION,
    PageHash, PageHashes, RejectReason, Welcome,
};
use replay::{
    EncodedEpoch, EpochBuilder, Event, Marks, Page, Point, Position, RamShare, RegisterSum,
    Snapshot,
};
use vmm::cpu_state::CpuState;

type Seed = (String, Vec<u8>);

fn main() {
    let folder = std::env::args_os()
        .nth(1)
        .expect("the folder of the corpora");
    for (target, seeds) in [
        ("arbiter", arbiter()),
        (
            "boot_image",
            (1..=5)
                .map(|base| (format!("base-{base}"), vec![base]))
                .collect(),
        ),
        ("config", config()),
        ("control", control()),
        ("disk_image", disk_image()),
        ("epochs", epochs()),
        ("frames", frames()),
        ("interrupts", noise(6, 300)),
        ("kernel", kernel()),
        ("log", log()),
        ("protocol", noise(6, 200)),
        ("rewrite", rewrite()),
        ("serial", noise(4, 200)),
        ("snapshot", snapshot()),
        ("timers", noise(6, 300)),
        ("virtio_block", noise(6, 300)),
        ("virtio_console", noise(4, 300)),
        ("virtio_net", noise(6, 300)),
        ("virtio_rng", noise(4, 200)),
    ] {
        let folder = Path::new(&folder).join(target);
        std::fs::create_dir_all(&folder).expect("a folder");
        for (name, data) in seeds {
            let path = folder.join(format!("seed-{name}"));
            std::fs::write(path, data).expect("room for a seed");
        }
    }
}

fn named<const N: usize>(seeds: [(&str, Vec<u8>); N]) -> Vec<Seed> {
    seeds.map(|(name, data)| (name.to_owned(), data)).into()
}

/// Bytes for targets that make sense of any; the same ones every time.
fn noise(count: u64, len: usize) -> Vec<Seed> {
    let make = |seed: u64| {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        let mut bytes: Vec<u8> = std::iter::repeat_with(next).take(len).collect();
        bytes[0] = seed as u8;
        (format!("noise-{seed}"), bytes)
    };
    (0..count).map(make).collect()
}

fn arbiter() -> Vec<Seed> {
    let sector = |sequence| {
        let record = Record {
            area_id: [7; 16],
            slot: 0,
            sequence,
            writer: "west".to_owned(),
            block: Block {
                generation: 3,
                mbal: 9,
                bal: 8,
                inp: Some("east".to_owned()),
                decided: true,
            },
        };
        record.encode()
    };
    let mut raw = vec![0];
    raw.extend_from_slice(&sector(4));
    raw.extend_from_slice(&sector(5)[..512]);
    let checked = &sector(4)[24..90];
    let mut sealed = vec![1, checked.len() as u8];
    sealed.extend_from_slice(checked);
    sealed.extend_from_slice(&sector(5)[24..90]);
    let candidate = [&[3][..], &7u64.to_le_bytes(), &9u64.to_le_bytes()].concat();
    let bid = [&[4, 1][..], &[0; 60]].concat();
    named([
        ("raw", raw),
        ("sealed", sealed),
        ("header", b"\x02\x02vm".to_vec()),
        ("candidate", candidate),
        ("bid", bid),
    ])
}

fn config() -> Vec<Seed> {
    let text = "# a pair\nname = \"demo\"\nlisten = \"0.0.0.0:7000\"\npeer = ['host:7000']\nimage = \"/disk\"\n\
                memory = 512\ndetect-ms = 0x100\nverbose = true\ndisk = [\"a\", \"b\"]\n[table]\nx = 1.5\n";
    named([
        ("all", text.into()),
        ("one", b"name = \"demo\"\n".to_vec()),
        ("strange", b"memory = [1, 2]\n'' = 1979-05-27\n".to_vec()),
    ])
}

fn control() -> Vec<Seed> {
    let lines = "\x05{\"ask\":\"status\"}\n\n {\"what\":\"ram:0xa00000\",\"ask\":\"flip\"} \r\n{\"ask\":\"failover\"}";
    let bad =
        "\x01{\"ask\":\"flip\",\"what\":\"register\"}\n{\"ask\":\"status\",\"deep\":[[[]]]}\n\n";
    named([("lines", lines.into()), ("bad", bad.into())])
}

fn disk_image() -> Vec<Seed> {
    // Read, write, read again, flush, discard.
    let requests = [0, 0, 3, 1, 1, 8, 2, 7, 0, 8, 2, 2, 0, 0, 3, 16, 3, 0, 0, 15];
    let with = |image: &[u8]| [&[requests.len() as u8], &requests[..], image].concat();
    named([
        ("qcow2-v3", with(&[1])),
        ("qcow2-v2", with(&[2])),
        ("raw", with(&[&[0][..], &[5; 4096]].concat())),
        (
            "header",
            with(&[&[0][..], b"QFI\xfb\0\0\0\x03", &[0; 600]].concat()),
        ),
    ])
}

/// Epochs with every kind of entry.
fn encoded_epochs() -> Vec<EncodedEpoch> {
    let point = Point {
        branches: 70,
        rip: 0xffff_ffff_8100_1234,
        rflags: 0x246,
        registers: RegisterSum {
            crc: 0xdead_beef,
            marks: 3,
        },
        stack: 0x5ac3,
    };
    let counted = Position::Counted { exits: 30, point };
    let page = |gfn, byte| Page {
        gfn,
        data: if byte == 0 {
            Vec::new()
        } else {
            vec![byte; 4096]
        },
    };
    let inputs = [
        Input::Clock { now: 5_000 },
        Input::Clock { now: 4_000 },
        Input::NetRx { frame: vec![1; 20] },
        Input::DiskDone {
            disk: 0,
            id: 9,
            outcome: DiskOutcome::Read(vec![2; 16]),
        },
        Input::DiskDone {
            disk: 1,
            id: 300,
            outcome: DiskOutcome::Failed(DiskError::Unsupported),
        },
        Input::ConsoleIn {
            console: Console::Virtio,
            bytes: b"ls\n".to_vec(),
        },
        Input::Entropy { bytes: vec![4; 8] },
        Input::PowerButton,
    ];
    let snapshot = Snapshot {
        cpu: vec![2, 0],
        machine: vec![1, 0, 0],
        pages: vec![page(3, 0), page(5, 0)],
    };
    let digest = replay::Digest {
        registers: Marks::default(),
        devices: Marks::default(),
        ram: RamShare {
            first: 16,
            pages: 4,
            sum: 5,
            weighted: 6,
        },
    };
    let mut builder = EpochBuilder::new(1);
    let mut all = Vec::new();
    let push = |builder: &mut EpochBuilder, at, event: &Event| {
        builder.push(at, event).expect("an entry");
    };
    push(
        &mut builder,
        Position::Exit(2),
        &Event::Snapshot(Box::new(snapshot)),
    );
    all.push(builder.close(Position::Exit(3), digest).expect("an epoch"));
    for (exit, input) in inputs.into_iter().enumerate() {
        push(
            &mut builder,
            Position::Exit(3 * exit as u64),
            &Event::Input(input),
        );
    }
    push(&mut builder, counted, &Event::Input(Input::PowerButton));
    push(&mut builder, counted, &Event::Output { crc: 9 });
    push(
        &mut builder,
        Position::Exit(900),
        &Event::Pages(vec![page(1, 0), page(2, 0)]),
    );
    all.push(
        builder
            .close(Position::Exit(900), digest)
            .expect("an epoch"),
    );
    all
}

fn epochs() -> Vec<Seed> {
    let all = encoded_epochs().into_iter().enumerate();
    all.map(|(index, epoch)| (format!("{index}"), epoch.bytes))
        .collect()
}

fn messages() -> Vec<Message> {
    let facts = Facts {
        vm_id: "vm".to_owned(),
        cpu_model: "baseline-v1".to_owned(),
        clock: "exit".to_owned(),
        ram_bytes: 1 << 28,
        machine_digest: [1; 32],
        disks: vec![DiskFacts {
            capacity_bytes: 1 << 30,
            shared: true,
        }],
        image_id: vec![2; 8],
    };
    vec![
        Message::Hello(Box::new(Hello {
            protocol_version: PROTOCOL_VERSION,
            features: 1,
            host: "east".to_owned(),
            generation: 2,
            wants: Join::Clone,
            facts,
        })),
        Message::Welcome(Welcome {
            protocol_version: PROTOCOL_VERSION,
            features: 1,
            host: "west".to_owned(),
            generation: 3,
            bidder: "west-1".to_owned(),
            commit: Commit::Executed,
            detect_ms: 300,
            heartbeat_ms: 50,
        }),
        Message::Reject(RejectReason::Busy {
            why: "so".to_owned(),
        }),
        Message::ClonePages {
            pages: vec![
                Page {
                    gfn: 4,
                    data: Vec::new(),
                },
                Page {
                    gfn: 5,
                    data: Vec::new(),
                },
            ],
        },
        Message::CloneDone { first: 7 },
        Message::Keep {
            generation: 4,
            voices: 2,
        },
        Message::Quorum {
            number: 1,
            voices: 2,
        },
        Message::QuorumKnown { number: 1 },
        Message::Backups { count: 2 },
        Message::Kept { generation: 4 },
        Message::Renewed { generation: 4 },
        Message::Ack(Ack {
            received: 9,
            executed: 8,
            ..Ack::default()
        }),
        Message::Heartbeat { seq: 3, heard: 2 },
        Message::GuestEnded {
            reason: EndReason::Reset,
        },
        Message::Bye {
            reason: ByeReason::Diverged,
        },
        Message::PageHashes(PageHashes {
            key: [3; 16],
            first_gfn: 8,
            hashes: vec![PageHash([4; 16]); 2],
            last: true,
        }),
        Message::HandOver,
        Message::Frame { bytes: vec![6; 60] },
    ]
}

fn frames() -> Vec<Seed> {
    let mut stream = vec![2, 5];
    let mut sealed = vec![3, 200];
    let mut seal = |frame: &[u8]| {
        let body = &frame[24..];
        // Short bodies' lengths are a byte, and epochs are small.
        if let Ok(len @ 0..=0xfb) = u8::try_from(body.len()) {
            sealed.extend_from_slice(&[frame[3], frame[8], len]);
            sealed.extend_from_slice(body);
        }
    };
    for message in messages() {
        let frame = encode(&message).expect("a frame");
        seal(&frame);
        stream.extend_from_slice(&frame);
    }
    for epoch in encoded_epochs() {
        let mut frame = Vec::new();
        encode_epoch_into(&epoch, &mut frame);
        seal(&frame);
        stream.extend_from_slice(&frame);
    }
    named([("stream", stream), ("sealed", sealed)])
}

fn log() -> Vec<Seed> {
    let header = LogHeader {
        cpu_model: "baseline-v1".to_owned(),
        ram_bytes: 256 << 20,
        machine_config: vec![1, 2],
        cmdline: "quiet".to_owned(),
        kernel_blake3: "00".to_owned(),
        initrd_blake3: String::new(),
        disk_bytes: vec![1 << 30],
        clock: "exit".to_owned(),
        boot_time_ns: 1_700_000_000_000_000_000,
        first_epoch: 1,
    };
    let mut writer = LogWriter::create(vec![0], &header).expect("a log");
    let (mut sealed, mut entries) = (vec![2], 0);
    for epoch in encoded_epochs() {
        writer.append(&epoch).expect("an epoch");
        let mut frame = Vec::new();
        encode_epoch_into(&epoch, &mut frame);
        sealed.extend_from_slice(&[3, frame[8], (frame.len() - 24) as u8]);
        sealed.extend_from_slice(&frame[24..]);
        entries += epoch.entries;
    }
    let raw = writer.finish(Position::Exit(900), [1; 32]).expect("a log");
    // The end: a position, a hash, how many entries and epochs.
    let mut end = vec![0, 9];
    end.extend_from_slice(&[1; 32]);
    end.extend_from_slice(&[entries as u8, 2]);
    sealed.extend_from_slice(&[4, 0, end.len() as u8]);
    sealed.extend_from_slice(&end);
    named([("raw", raw), ("sealed", sealed)])
}

const CODE: &[u8] = &[
    0x0f, 0x31, // RDTSC
    0x48, 0xc1, 0xe2, 0x20, // SHL RDX, 32
    0x48, 0x09, 0xd0, // OR RAX, RDX
    0x0f, 0x20, 0xe0, // MOV RAX, CR4
    0x48, 0x25, 0xff, 0xfb, 0xff, 0xff, // AND RAX, ~0x400
    0x48, 0x0d, 0xa0, 0x00, 0x00, 0x00, // OR RAX, PAE | PGE
    0x0f, 0x22, 0xe0, // MOV CR4, RAX
    0x0f, 0x01, 0xf9, // RDTSCP
    0xe8, 0x02, 0x00, 0x00, 0x00, // CALL over the next
    0xeb, 0xfe, // JMP here
    0xb9, 0x0f, 0x31, 0x00, 0x00, // MOV ECX, 0x310f
    0x0f, 0xba, 0xf0, 0x02, // BTR EAX, 2
    0x0f, 0x22, 0xe0, // MOV CR4, RAX
    0xc3,
];

fn rewrite() -> Vec<Seed> {
    let far = [&[0x90; 200][..], CODE, &[0xcc; 140], CODE].concat();
    named([
        ("near", [&[0, 0], CODE].concat()),
        ("far", [&[200, 0], &far[..]].concat()),
    ])
}

fn kernel() -> Vec<Seed> {
    let elf = fuzz::rewrite::elf(0, CODE);
    let bzimage = |payload: &[u8]| {
        let mut file = vec![0; 1024];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x1f1, &[1]);
        put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
        put(0x202, b"HdrS");
        put(0x206, &0x20f_u16.to_le_bytes());
        put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
        put(0x236, &[1, 0]);
        put(0x238, &2047_u32.to_le_bytes());
        put(0x24c, &(payload.len() as u32).to_le_bytes());
        [&[3][..], &file, payload].concat()
    };
    let len = (elf.len() as u32).to_le_bytes();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&elf).expect("memory");
    let gzip = [&gzip.finish().expect("memory")[..], &len].concat();
    // Literals alone, of which there are more than 15: the rest is counted in bytes of 255.
    let mut block = vec![0xf0];
    let mut rest = elf.len() - 15;
    while rest >= 255 {
        block.push(255);
        rest -= 255;
    }
    block.push(rest as u8);
    block.extend_from_slice(&elf);
    let size = (block.len() as u32).to_le_bytes();
    let lz4 = [&[0x02, 0x21, 0x4c, 0x18][..], &size, &block, &len].concat();
    // One segment, its size in two bytes (less 256), one raw block.
    let size = (elf.len() as u16).wrapping_sub(256).to_le_bytes();
    let head = ((elf.len() as u32) << 3 | 1).to_le_bytes();
    let zstd = [
        &[0x28, 0xb5, 0x2f, 0xfd, 0x60][..],
        &size,
        &head[..3],
        &elf,
        &len,
    ]
    .concat();
    let xz = include_bytes!("../../vmm/src/boot/decompress/testdata/x86-bcj.xz");
    named([
        ("elf", [&[3], &elf[..]].concat()),
        ("plain", bzimage(&elf)),
        ("gzip", bzimage(&gzip)),
        ("lz4", bzimage(&lz4)),
        ("zstd", bzimage(&zstd)),
        ("xz", bzimage(xz)),
    ])
}

fn snapshot() -> Vec<Seed> {
    let config = fuzz::rig::config(2, true, true, true);
    let ram = Ram::new(fuzz::rig::RAM_BYTES);
    let mut machine = Machine::new(&config);
    let off = machine.save().encode();
    for (index, value) in [
        (0x1b, 0xfee0_0d00),
        (0x80f, 0x1ff),
        (0x832, 0x200ec),
        (0x838, 900),
    ] {
        machine.msr_write(index, value);
    }
    for (offset, value) in [(0u64, 0x14u32), (0x10, 0x34)] {
        machine.mmio_write(ram.memory(), IOAPIC_BASE + offset, &value.to_le_bytes());
    }
    for window in 0..5u64 {
        for (offset, value) in [(0x70, 1u32), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11)] {
            let address = VIRTIO_MMIO_BASE + window * 0x1000 + offset;
            machine.mmio_write(ram.memory(), address, &value.to_le_bytes());
        }
        for (offset, value) in [
            (0x38, 16u32),
            (0x80, 0x1000),
            (0x90, 0x1400),
            (0xa0, 0x1800),
            (0x44, 1),
            (0x70, 15),
        ] {
            let address = VIRTIO_MMIO_BASE + window * 0x1000 + offset;
            machine.mmio_write(ram.memory(), address, &value.to_le_bytes());
        }
    }
    machine.pio_write(0x3f8, b"x");
    let _ = machine.input(ram.memory(), Input::Clock { now: 1_000_000 });
    let on = machine.save().encode();
    let after = [0; 30];
    let with = |state: &[u8]| [&[after.len() as u8 + 1][..], state, &after].concat();
    let mut seeds = named([("off", with(&off)), ("on", with(&on))]);
    // A vCPU's state has no maker without KVM; zeros are one, if they are as many as it has bytes.
    let zeros = (1..8192).map(|len| {
        let mut bytes = vec![0; len];
        bytes[0] = vmm::cpu_state::CPU_STATE_VERSION as u8;
        bytes
    });
    let cpu = zeros
        .into_iter()
        .find(|bytes| CpuState::decode(bytes).is_ok());
    let cpu = cpu.expect("a state of zeros");
    seeds.push(("cpu".to_owned(), [&[0], &cpu[..]].concat()));
    seeds
}
