//! Whether the loader has closed the time-stamp counter in a guest's kernel.

use vmm::boot::RewriteReport;

/// How the kernel can still read the host's counter, for all that was seen when it was loaded.
pub(super) fn hole(report: &RewriteReport) -> Option<String> {
    if !report.requested {
        return Some("its RDTSC instructions were left as they are (--open-rdtsc)".to_owned());
    }
    let mut holes = Vec::new();
    if report.rdtsc_left > 0 {
        holes.push(format!(
            "{} of its RDTSC instructions could not be rewritten",
            report.rdtsc_left
        ));
    }
    if !report.cr4_site {
        holes.push(
            "its start-up code loads CR4 in a way that was not found, so RDTSC in user space may \
             not fault"
                .to_owned(),
        );
    }
    if !report.by_sections {
        holes.push(
            "it has no section headers, so data may have been rewritten that looked like RDTSC"
                .to_owned(),
        );
    }
    (!holes.is_empty()).then(|| holes.join(", and "))
}

#[cfg(test)]
mod tests {
    use vmm::boot::rewrite::LaterCode;

    use super::*;

    type Change = fn(&mut RewriteReport);

    fn closed() -> RewriteReport {
        RewriteReport {
            requested: true,
            rdtsc_sites: 79,
            rdtsc_left: 0,
            rdtscp_sites: 4,
            cr4_site: true,
            cr4_patches: 2,
            cr4_clears: 3,
            later_code: LaterCode {
                function: Some(1),
                is_closed: true,
            },
            by_sections: true,
        }
    }

    #[test]
    fn a_closed_kernel_has_no_hole_and_every_other_has() {
        assert!(closed().is_closed());
        assert_eq!(hole(&closed()), None);
        let cases: [(Change, &str); 4] = [
            (|report| report.requested = false, "left as they are"),
            (|report| report.rdtsc_left = 2, "2 of its RDTSC"),
            (|report| report.cr4_site = false, "loads CR4"),
            (|report| report.by_sections = false, "no section headers"),
        ];
        for (change, text) in cases {
            let mut report = closed();
            change(&mut report);
            let found = hole(&report).unwrap();
            assert!(found.contains(text), "{found}");
        }
    }

    #[test]
    fn all_holes_are_told() {
        let report = RewriteReport {
            rdtsc_left: 1,
            cr4_site: false,
            ..closed()
        };
        assert!(!report.is_closed());
        assert_eq!(hole(&report).unwrap().matches(", and ").count(), 1);
    }
}
