//! The report for Prometheus, in its text format (version 0.0.4): base units, seconds and bytes; counters
//! end in `_total`. What is not known has no sample.

use std::fmt::Write as _;

use super::report::Report;

/// All roles: the one that holds has the value 1, the others 0.
const ROLES: [&str; 6] = [
    "starting", "joining", "primary", "alone", "backup", "halted",
];

/// One metric without labels but the machine's name: its name, type, help, and value if it is known.
type Metric = (&'static str, &'static str, &'static str, Option<f64>);

/// The report as samples with the label `vm`.
pub fn prometheus(report: &Report) -> String {
    let vm = escaped(report.vm.as_deref().unwrap_or_default());
    let mut text = String::new();
    let head = |name: &str, kind: &str, help: &str, text: &mut String| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    };
    head("ftd_info", "gauge", "What runs here; always 1.", &mut text);
    let _ = writeln!(
        text,
        "ftd_info{{vm=\"{vm}\",command=\"{}\",clock=\"{}\",host_kvm=\"{}\"}} 1",
        escaped(&report.command),
        escaped(&report.clock),
        escaped(&report.host_kvm)
    );
    head(
        "ftd_role",
        "gauge",
        "1 for the role that this side has.",
        &mut text,
    );
    for role in ROLES {
        let is = u8::from(report.role == role);
        let _ = writeln!(text, "ftd_role{{vm=\"{vm}\",role=\"{role}\"}} {is}");
    }
    for (name, kind, help, value) in metrics(report) {
        if let Some(value) = value {
            head(name, kind, help, &mut text);
            let _ = writeln!(text, "{name}{{vm=\"{vm}\"}} {value}");
        }
    }
    text
}

fn metrics(report: &Report) -> Vec<Metric> {
    let number = |value: Option<u64>| value.map(|value| value as f64);
    let seconds = |ms: Option<f64>| ms.map(|ms| ms / 1000.0);
    let last = report.last_failover;
    vec![
        (
            "ftd_protected",
            "gauge",
            "Whether the guest survives the loss of either host now.",
            Some(f64::from(u8::from(report.protected))),
        ),
        (
            "ftd_backups",
            "gauge",
            "Hosts that can take the guest over from this one now.",
            report
                .backups
                .as_ref()
                .map(|backups| backups.iter().filter(|backup| backup.protects).count() as f64),
        ),
        (
            "ftd_generation",
            "gauge",
            "How often a copy of the guest has become the only live one.",
            number(report.generation),
        ),
        (
            "ftd_epoch_made",
            "gauge",
            "The last epoch of the log that was made here.",
            number(report.epoch_made),
        ),
        (
            "ftd_epoch_acknowledged",
            "gauge",
            "The last epoch that the backup has acknowledged.",
            number(report.epoch_acknowledged),
        ),
        (
            "ftd_epoch_executed",
            "gauge",
            "The last epoch that the backup has executed.",
            number(report.epoch_executed),
        ),
        (
            "ftd_lag_seconds",
            "gauge",
            "For how long the oldest epoch not executed has waited.",
            seconds(report.lag_ms),
        ),
        (
            "ftd_lag_epochs",
            "gauge",
            "Epochs that the backup has not executed.",
            number(report.lag_epochs),
        ),
        (
            "ftd_lag_bytes",
            "gauge",
            "Log that the backup has not executed.",
            number(report.lag_bytes),
        ),
        (
            "ftd_log_bytes_total",
            "counter",
            "Log sent or received since this process began.",
            number(report.log_bytes),
        ),
        (
            "ftd_log_entries_total",
            "counter",
            "Entries in that log.",
            number(report.log_entries),
        ),
        (
            "ftd_divergences_total",
            "counter",
            "Times that a copy of the guest was found to differ.",
            number(report.divergences),
        ),
        (
            "ftd_snapshots_total",
            "counter",
            "Snapshots taken because an input had waited too long.",
            number(report.snapshots),
        ),
        (
            "ftd_landings_total",
            "counter",
            "Points between exits at which inputs landed.",
            number(report.landings),
        ),
        (
            "ftd_last_failover_timestamp_seconds",
            "gauge",
            "When the guest last went live here, since 1970.",
            last.map(|last| last.unix_ms as f64 / 1000.0),
        ),
        (
            "ftd_last_failover_detection_seconds",
            "gauge",
            "How long its primary had been silent then.",
            last.map(|last| last.detection_ms / 1000.0),
        ),
        (
            "ftd_last_failover_go_live_seconds",
            "gauge",
            "From then until the guest was live.",
            last.map(|last| last.go_live_ms / 1000.0),
        ),
        (
            "ftd_guest_seconds",
            "gauge",
            "The guest's virtual time.",
            report.virtual_s,
        ),
        (
            "ftd_uptime_seconds",
            "gauge",
            "How long this process has run.",
            Some(report.uptime_s),
        ),
    ]
}

/// A label's value.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Failover;

    #[test]
    fn what_is_known_is_told_in_base_units() {
        let report = Report {
            command: "pair".to_owned(),
            role: "primary".to_owned(),
            protected: true,
            vm: Some("a\"b".to_owned()),
            clock: "pmu".to_owned(),
            host_kvm: "kvm_amd".to_owned(),
            lag_ms: Some(4.5),
            log_bytes: Some(12_345_678_901),
            last_failover: Some(Failover {
                unix_ms: 1_700_000_000_500,
                detection_ms: 300.0,
                go_live_ms: 57.5,
            }),
            uptime_s: 3.25,
            ..Report::default()
        };
        let text = prometheus(&report);
        for line in [
            "ftd_info{vm=\"a\\\"b\",command=\"pair\",clock=\"pmu\",host_kvm=\"kvm_amd\"} 1",
            "ftd_role{vm=\"a\\\"b\",role=\"primary\"} 1",
            "ftd_role{vm=\"a\\\"b\",role=\"backup\"} 0",
            "# TYPE ftd_protected gauge",
            "ftd_protected{vm=\"a\\\"b\"} 1",
            "ftd_lag_seconds{vm=\"a\\\"b\"} 0.0045",
            "# TYPE ftd_log_bytes_total counter",
            "ftd_log_bytes_total{vm=\"a\\\"b\"} 12345678901",
            "ftd_last_failover_timestamp_seconds{vm=\"a\\\"b\"} 1700000000.5",
            "ftd_last_failover_go_live_seconds{vm=\"a\\\"b\"} 0.0575",
            "ftd_uptime_seconds{vm=\"a\\\"b\"} 3.25",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
        assert!(
            !text.contains("ftd_divergences"),
            "nobody knows them:\n{text}"
        );
    }

    #[test]
    fn each_sample_follows_its_help_and_type() {
        let report = Report {
            generation: Some(1),
            divergences: Some(0),
            ..Report::default()
        };
        let text = prometheus(&report);
        let mut described = "";
        let mut samples = 0;
        for line in text.lines() {
            match line.strip_prefix("# ") {
                Some(rest) => described = rest.split(' ').nth(1).unwrap(),
                None => {
                    let name = line.split('{').next().unwrap();
                    assert_eq!(name, described, "{text}");
                    samples += 1;
                }
            }
        }
        assert_eq!(samples, 1 + ROLES.len() + 4, "{text}");
        assert!(text.ends_with('\n'));
    }
}
