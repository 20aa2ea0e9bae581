//! Where things are: guest-physical addresses, I/O ports, interrupt lines (GSIs).
//!
//! RAM is one range from 0 up to [`RAM_BYTES_MAX`] (3 GiB); everything above it up to 4 GiB is
//! device space. There is no PCI bus and no firmware.

/// Size of a guest page in bytes.
pub const PAGE_BYTES: u64 = 4096;
/// Most RAM a guest can have, in bytes.
pub const RAM_BYTES_MAX: u64 = 3 << 30;

/// First virtio-mmio window; window `i` is at `VIRTIO_MMIO_BASE + i * VIRTIO_MMIO_STRIDE`.
pub const VIRTIO_MMIO_BASE: u64 = 0xd000_0000;
/// Distance between virtio-mmio windows, and their size, in bytes.
pub const VIRTIO_MMIO_STRIDE: u64 = 0x1000;
/// Number of virtio-mmio windows.
pub const VIRTIO_MMIO_COUNT: usize = 8;
/// GSI of virtio-mmio window 0; window `i` has `VIRTIO_GSI_BASE + i`. Level, active high.
pub const VIRTIO_GSI_BASE: u32 = 16;

/// IOAPIC window (82093AA), 24 pins, GSI base 0.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// Pins of the IOAPIC.
pub const IOAPIC_PINS: usize = 24;
/// Local APIC window in xAPIC mode.
pub const LAPIC_BASE: u64 = 0xfee0_0000;
/// First and last x2APIC MSR (SDM vol. 3, 11.12.1.2).
pub const X2APIC_MSRS: std::ops::RangeInclusive<u32> = 0x800..=0x8ff;
/// Frequency at which the local APIC's timer counts before its divider, in Hz.
pub const LAPIC_TIMER_HZ: u64 = 1_000_000_000;

/// ACPI SCI, level, active high.
pub const SCI_GSI: u32 = 9;
/// GSI of the PIT (ISA IRQ 0 is overridden to GSI 2 in the MADT).
pub const PIT_GSI: u32 = 2;
/// GSI of COM1, edge, active high.
pub const COM1_GSI: u32 = 4;
/// GSI of the RTC.
pub const RTC_GSI: u32 = 8;

/// COM1, 8 ports.
pub const COM1_PORT: u16 = 0x3f8;
/// ACPI PM1a event block (status 2 bytes, enable 2 bytes).
pub const PM1A_EVT_PORT: u16 = 0x600;
/// ACPI PM1a control block, 2 bytes.
pub const PM1A_CNT_PORT: u16 = 0x604;
/// ACPI PM timer, 4 bytes, 32 bits wide (TMR_VAL_EXT).
pub const PM_TMR_PORT: u16 = 0x608;
/// Frequency of the ACPI PM timer in Hz (ACPI 6.5, section 4.8.2.1).
pub const PM_TMR_HZ: u64 = 3_579_545;
/// ACPI reset register (FADT RESET_REG), 1 byte; writing [`RESET_VALUE`] resets.
pub const RESET_PORT: u16 = 0x610;
/// Value that resets when written to [`RESET_PORT`].
pub const RESET_VALUE: u8 = 0x01;
/// SLP_TYP value of S5 in the DSDT's \_S5 package.
pub const S5_SLP_TYP: u8 = 5;
/// The port that stands for RDTSC: the loader rewrites `0F 31` to `IN EAX, TSC_PORT`, and the VMM
/// answers with EDX:EAX. One byte, because the rewritten instruction must be two bytes long.
pub const TSC_PORT: u8 = 0xe8;
/// Frequency of the virtual TSC in Hz: one tick a nanosecond of virtual time.
pub const TSC_HZ: u64 = 1_000_000_000;
