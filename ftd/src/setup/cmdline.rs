//! What ftd adds to the command line an image brings along.

/// Options of Linux that make it exit less, where ftd runs it. All of them are honoured or ignored
/// by every kernel since 5.14, and change nothing a program can rely on.
const CHEAPER: [(&str, &str); 1] = [
    // A random offset of the kernel's stack, by an RDTSC in every system call: each would exit.
    ("randomize_kstack_offset", "off"),
];

/// `given` with the options that it doesn't set itself.
pub fn with_cheaper_options(given: &str) -> String {
    let mut line = given.trim_end().to_owned();
    for (name, value) in CHEAPER {
        let set = given.split_whitespace().any(|word| {
            word.strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        });
        if set {
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(name);
        line.push('=');
        line.push_str(value);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_image_sets_stays() {
        assert_eq!(
            with_cheaper_options("root=/dev/vda1 rw\n"),
            "root=/dev/vda1 rw randomize_kstack_offset=off"
        );
        let own = "randomize_kstack_offset=on quiet";
        assert_eq!(with_cheaper_options(own), own);
        assert_eq!(with_cheaper_options(""), "randomize_kstack_offset=off");
    }
}
