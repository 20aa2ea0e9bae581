use clap::{Arg, value_parser};

use super::*;

fn command() -> Command {
    let long = |name: &'static str| Arg::new(name).long(name);
    Command::new("ftd").subcommand(
        Command::new("pair")
            .arg(long("config"))
            .arg(long("image").required(true))
            .arg(long("memory").value_parser(value_parser!(u64).range(4..=3072)))
            .arg(long("peer").action(ArgAction::Append).required(true))
            .arg(long("initrd").requires("image"))
            .arg(long("quiet").action(ArgAction::SetTrue)),
    )
}

fn expanded(text: &str, own: &[&str]) -> Result<Vec<String>, String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("vm.toml");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let mut args: Vec<OsString> = ["ftd", "-v", "pair", "--config", file]
        .map(Into::into)
        .into();
    args.extend(own.iter().map(Into::into));
    match expand(&command(), args) {
        Ok(args) => Ok(args[3..]
            .iter()
            .map(|arg| arg.to_str().unwrap().to_owned())
            .filter(|arg| arg != file && arg != "--config")
            .collect()),
        Err(error) => Err(error.to_string().replace(file, "FILE")),
    }
}

#[test]
fn keys_become_flags_and_the_command_line_goes_before() {
    let text =
        "# a guest\nmemory = 256\nimage = \"/dev/x\"\npeer = [\"a:1\", \"b:2\"]\nquiet = true\n";
    let all = [
        "--memory=256",
        "--image=/dev/x",
        "--peer=a:1",
        "--peer=b:2",
        "--quiet",
    ];
    assert_eq!(expanded(text, &[]).unwrap(), all);
    let own = ["--memory", "128", "--peer=c:3"];
    let rest = ["--image=/dev/x", "--quiet", "--memory", "128", "--peer=c:3"];
    assert_eq!(expanded(text, &own).unwrap(), rest);
    assert_eq!(
        expanded("memory = 0x100\nquiet = false", &[]).unwrap(),
        ["--memory=256"]
    );
    assert_eq!(expanded("peer = \"a:1\"", &[]).unwrap(), ["--peer=a:1"]);
    assert_eq!(expanded("initrd = \"/x\"", &[]).unwrap(), ["--initrd=/x"]);
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    for (text, words) in [
        (
            "image = \"x\"\n\nmemmory = 5\n",
            "FILE:3: 'memmory' is no key",
        ),
        ("config = \"x\"", "FILE:1: 'config' is no key"),
        ("help = true", "FILE:1: 'help' is no key"),
        ("[guest]\nmemory = 5\n", "FILE:1: 'guest' is no key"),
        (
            "\nmemory = 5000\n",
            "FILE:2: 'memory' has an invalid value '5000'",
        ),
        (
            "memory = \"much\"",
            "FILE:1: 'memory' has an invalid value 'much'",
        ),
        ("memory = 1.5", "FILE:1: 'memory' is a text or a number"),
        ("image = [\"x\"]", "FILE:1: 'image' is a text or a number"),
        ("peer = [[1]]", "FILE:1: 'peer' is a list of texts"),
        ("quiet = 1", "FILE:1: 'quiet' is either true or false"),
        ("memory = 5\nmemory = 6\n", "FILE:2: "),
        ("image = \"x\"\nmemory 5\n", "FILE:2: "),
        ("image = \"x", "FILE:1: "),
    ] {
        let said = expanded(text, &[]).unwrap_err();
        assert!(said.starts_with(words), "{text:?}: {said}");
    }
}

#[test]
fn a_command_line_without_a_file_stays_as_it_is() {
    for line in [
        &["ftd"][..],
        &["ftd", "--version"],
        &["ftd", "pair", "--image", "x"],
        &["ftd", "other", "--config", "x"],
        &["ftd", "pair", "--config"],
        &["ftd", "pair", "--configuration", "x"],
    ] {
        let args: Vec<OsString> = line.iter().map(Into::into).collect();
        assert_eq!(expand(&command(), args.clone()).unwrap(), args);
    }
    let gone = ["ftd", "pair", "--config=/no/such/file"].map(OsString::from);
    let error = expand(&command(), gone.to_vec()).unwrap_err();
    assert!(error.to_string().contains("/no/such/file"), "{error}");
}
