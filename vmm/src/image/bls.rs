//! Boot loader entries of type #1: the UAPI group's Boot Loader Specification (UAPI.1).

use std::cmp::Ordering;

use super::version;

/// An entry: what to boot, and what it is sorted by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// File name without `.conf` and without the boot counter.
    pub id: String,
    /// Path of the kernel.
    pub linux: String,
    /// Paths of the parts of the initrd, in order.
    pub initrd: Vec<String>,
    /// The command line. None if the entry has no `options`.
    pub options: Option<String>,
    sort_key: Option<String>,
    machine_id: Option<String>,
    version: Option<String>,
    /// The boot counter has run out: the entry is to be tried last.
    bad: bool,
}

impl Entry {
    /// Reads the entry in a file called `file_name`. None if it is not for ftd: not `.conf`, no
    /// `linux` key (an EFI program), or for another architecture.
    #[must_use]
    pub fn parse(file_name: &str, text: &str) -> Option<Self> {
        let (id, bad) = id_and_counter(file_name.strip_suffix(".conf")?);
        let mut entry = Self {
            id: id.to_owned(),
            bad,
            ..Self::default()
        };
        for line in text.lines() {
            let line = line.trim();
            let (key, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
            let value = value.trim();
            if line.starts_with('#') || value.is_empty() {
                continue;
            }
            match key {
                "linux" => entry.linux = value.to_owned(),
                // Variables are GRUB's, and empty unless somebody set them.
                "initrd" => entry.initrd.extend(words(value).map(str::to_owned)),
                "options" => {
                    let line = words(value).collect::<Vec<_>>().join(" ");
                    match &mut entry.options {
                        Some(options) => {
                            options.push(' ');
                            options.push_str(&line);
                        }
                        None => entry.options = Some(line),
                    }
                }
                "sort-key" => entry.sort_key = Some(value.to_owned()),
                "machine-id" => entry.machine_id = Some(value.to_owned()),
                "version" => entry.version = Some(value.to_owned()),
                "architecture" if !value.eq_ignore_ascii_case("x64") => return None,
                _ => {}
            }
        }
        (!entry.linux.is_empty()).then_some(entry)
    }

    /// The order of a boot menu: what is to be booted by default comes first.
    #[must_use]
    pub fn menu_order(&self, other: &Self) -> Ordering {
        let newer_first = |a: &str, b: &str| version::compare(b, a);
        let by_key = match (&self.sort_key, &other.sort_key) {
            (Some(key), Some(other_key)) => key
                .cmp(other_key)
                .then_with(|| self.machine_id.cmp(&other.machine_id))
                .then_with(|| newer_first(self.version(), other.version())),
            // Entries with a key come before those without.
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        };
        self.bad
            .cmp(&other.bad)
            .then(by_key)
            .then_with(|| newer_first(&self.id, &other.id))
    }

    fn version(&self) -> &str {
        self.version.as_deref().unwrap_or("")
    }
}

/// The words of a value that are not GRUB variables.
fn words(value: &str) -> impl Iterator<Item = &str> {
    value
        .split_ascii_whitespace()
        .filter(|word| !word.starts_with('$'))
}

/// Splits `id+LEFT-DONE` or `id+LEFT`; says whether no tries are left.
fn id_and_counter(stem: &str) -> (&str, bool) {
    let Some((id, counter)) = stem.rsplit_once('+') else {
        return (stem, false);
    };
    let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
    match (left.parse::<u32>(), done.parse::<u32>()) {
        (Ok(left), Ok(_)) => (id, left == 0),
        _ => (stem, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, text: &str) -> Entry {
        Entry::parse(name, text).unwrap()
    }

    #[test]
    fn an_entry_is_read() {
        let entry = entry(
            "debian-6.1.conf",
            "# made by hand\ntitle Debian\nlinux /vmlinuz-6.1\ninitrd\t/a.img\ninitrd /b.img $c\n\
             options root=UUID=1234   ro\noptions console=ttyS0 $tuned\narchitecture x64\n",
        );
        assert_eq!(entry.id, "debian-6.1");
        assert_eq!(entry.linux, "/vmlinuz-6.1");
        assert_eq!(entry.initrd, ["/a.img", "/b.img"]);
        assert_eq!(
            entry.options.as_deref(),
            Some("root=UUID=1234 ro console=ttyS0")
        );
    }

    #[test]
    fn what_is_not_for_us_is_passed_over() {
        assert_eq!(Entry::parse("a.conf", "efi /shell.efi\n"), None);
        assert_eq!(Entry::parse("a.txt", "linux /v\n"), None);
        assert_eq!(
            Entry::parse("a.conf", "linux /v\narchitecture aa64\n"),
            None
        );
    }

    #[test]
    fn the_newest_comes_first_and_the_bad_last() {
        let mut entries = [
            entry("deb-6.1.0-9.conf", "linux /1"),
            entry("bad-9+0-3.conf", "linux /2\nsort-key a\nversion 99"),
            entry("deb-6.1.0-10.conf", "linux /3"),
            entry("x.conf", "linux /4\nsort-key b\nversion 1"),
            entry("y.conf", "linux /5\nsort-key b\nversion 2"),
        ];
        entries.sort_by(Entry::menu_order);
        let order: Vec<&str> = entries.iter().map(|entry| &entry.linux[..]).collect();
        assert_eq!(order, ["/5", "/4", "/3", "/1", "/2"]);
    }
}
