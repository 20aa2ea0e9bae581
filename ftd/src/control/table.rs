//! The report for people.

use super::report::{BackupReport, Failover, LastClone, Report};

/// A table of what is known; `now_unix_ms` is this host's time of day.
pub fn table(report: &Report, now_unix_ms: u64) -> String {
    let rows = [
        ("role", Some(standing(report))),
        ("guest", guest(report)),
        ("peer", peer(report)),
        ("backups", backups(report)),
        ("epochs", epochs(report)),
        ("lag", lag(report)),
        (
            "log",
            report.log_mbit_s.map(|rate| format!("{rate:.2} Mbit/s")),
        ),
        (
            "divergences",
            report.divergences.map(|count| count.to_string()),
        ),
        ("snapshots", report.snapshots.map(|count| count.to_string())),
        ("landings", report.landings.map(|count| count.to_string())),
        (
            "last fail-over",
            report
                .last_failover
                .map(|last| failover(&last, now_unix_ms)),
        ),
        (
            "last clone",
            report.last_clone.map(|last| clone(&last, now_unix_ms)),
        ),
        (
            "clock",
            Some(format!("{}, on {}", report.clock, report.host_kvm)),
        ),
        ("up", Some(up(report))),
    ];
    let mut text = String::new();
    for (name, value) in rows {
        if let Some(value) = value {
            text.push_str(&format!("{name:15} {value}\n"));
        }
    }
    text
}

/// The role, and whether the guest is protected or why not.
pub fn standing(report: &Report) -> String {
    let role = &report.role;
    match &report.why_unprotected {
        None if report.protected => format!("{role}, protected"),
        None => format!("{role}, not protected"),
        Some(why) => format!("{role}, not protected: {why}"),
    }
}

fn guest(report: &Report) -> Option<String> {
    let vm = report.vm.as_ref()?;
    Some(match report.generation {
        Some(generation) => format!("{vm}, generation {generation}"),
        None => vm.clone(),
    })
}

fn peer(report: &Report) -> Option<String> {
    let host = report.peer_host.as_ref()?;
    Some(match report.peer_address {
        Some(address) => format!("{host} ({address})"),
        None => host.clone(),
    })
}

/// Each of several.
fn backups(report: &Report) -> Option<String> {
    let backups = report.backups.as_ref().filter(|all| all.len() > 1)?;
    let one = |backup: &BackupReport| match backup.protects {
        true => format!("{}, {:.1} ms behind", backup.host, backup.lag_ms),
        false => format!("{}, not confirmed yet", backup.host),
    };
    Some(backups.iter().map(one).collect::<Vec<_>>().join("; "))
}

fn epochs(report: &Report) -> Option<String> {
    let known = [
        ("made", report.epoch_made),
        ("acknowledged", report.epoch_acknowledged),
        ("executed", report.epoch_executed),
    ];
    let parts: Vec<String> = known
        .into_iter()
        .filter_map(|(what, epoch)| Some(format!("{what} {}", epoch?)))
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn lag(report: &Report) -> Option<String> {
    let (ms, epochs, bytes) = (report.lag_ms?, report.lag_epochs?, report.lag_bytes?);
    let plural = if epochs == 1 { "" } else { "s" };
    Some(format!("{ms:.1} ms, {epochs} epoch{plural}, {bytes} bytes"))
}

fn failover(last: &Failover, now_unix_ms: u64) -> String {
    let Failover {
        unix_ms,
        detection_ms,
        go_live_ms,
    } = last;
    let ago = span(now_unix_ms.saturating_sub(*unix_ms) as f64 / 1000.0);
    format!("{ago} ago: silent for {detection_ms:.1} ms, live {go_live_ms:.1} ms later")
}

fn clone(last: &LastClone, now_unix_ms: u64) -> String {
    let LastClone {
        unix_ms,
        precopy_ms,
        stop_ms,
        pages_sent,
        pages_equal,
    } = last;
    let ago = span(now_unix_ms.saturating_sub(*unix_ms) as f64 / 1000.0);
    let took = span(precopy_ms / 1000.0);
    format!(
        "{ago} ago: {pages_sent} pages sent in {took}, {pages_equal} were there already; the guest \
         stood for {stop_ms:.1} ms"
    )
}

fn up(report: &Report) -> String {
    let here = format!("{} (process {})", span(report.uptime_s), report.pid);
    match report.virtual_s {
        Some(seconds) => format!("{here}; the guest: {}", span(seconds)),
        None => here,
    }
}

/// A time as people say it: its two largest units.
fn span(seconds: f64) -> String {
    let whole = seconds as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds:.1} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", whole % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_shows_what_it_knows() {
        let report = Report {
            command: "primary".to_owned(),
            pid: 7,
            role: "primary".to_owned(),
            protected: true,
            vm: Some("vm".to_owned()),
            generation: Some(3),
            clock: "pmu".to_owned(),
            host_kvm: "kvm_amd".to_owned(),
            peer_host: Some("west".to_owned()),
            peer_address: "192.0.2.2:7777".parse().ok(),
            epoch_made: Some(12),
            epoch_acknowledged: Some(11),
            epoch_executed: Some(10),
            lag_ms: Some(4.25),
            lag_epochs: Some(2),
            lag_bytes: Some(300),
            log_mbit_s: Some(0.5),
            divergences: Some(0),
            last_failover: Some(Failover {
                unix_ms: 1_000,
                detection_ms: 301.0,
                go_live_ms: 57.5,
            }),
            last_clone: Some(LastClone {
                unix_ms: 2_000,
                precopy_ms: 1250.0,
                stop_ms: 3.5,
                pages_sent: 12,
                pages_equal: 3400,
            }),
            uptime_s: 3700.0,
            virtual_s: Some(61.0),
            ..Report::default()
        };
        let text = table(&report, 91_000);
        for row in [
            "role            primary, protected\n",
            "guest           vm, generation 3\n",
            "peer            west (192.0.2.2:7777)\n",
            "epochs          made 12, acknowledged 11, executed 10\n",
            "lag             4.2 ms, 2 epochs, 300 bytes\n",
            "log             0.50 Mbit/s\n",
            "divergences     0\n",
            "last fail-over  1 min 30 s ago: silent for 301.0 ms, live 57.5 ms later\n",
            "last clone      1 min 29 s ago: 12 pages sent in 1.2 s, 3400 were there already; the \
             guest stood for 3.5 ms\n",
            "clock           pmu, on kvm_amd\n",
            "up              1 h 1 min (process 7); the guest: 1 min 1 s\n",
        ] {
            assert!(text.contains(row), "{row:?} is not in\n{text}");
        }
        assert!(!text.contains("snapshots"), "nobody knows them:\n{text}");
    }

    #[test]
    fn one_that_is_not_protected_says_why() {
        let report = Report {
            role: "alone".to_owned(),
            why_unprotected: Some("no backup has joined".to_owned()),
            ..Report::default()
        };
        let text = table(&report, 0);
        let row = "role            alone, not protected: no backup has joined\n";
        assert!(text.contains(row), "{text}");
        assert!(!text.contains("epochs") && !text.contains("peer"), "{text}");
    }
}
