//! `pg2ch completions`: the command line's own definitions, for a shell.
//!
//! Each script looks for the command among the words that stand there, past options and their values, and offers what
//! may follow it: its own options, and those of the common ones that it takes.

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind};

/// A shell that can complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// GNU bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

impl Shell {
    /// Every shell.
    pub const ALL: [Self; 3] = [Self::Bash, Self::Zsh, Self::Fish];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
        }
    }
}

/// The common options that a command, `dead-letters replay`, takes.
pub type CommonOptions = fn(&str) -> Vec<&'static FlagInfo<'static>>;

/// A command as it is typed, and what may follow it: words and their descriptions.
struct Place {
    typed: String,
    options: Vec<(String, String)>,
    words: Vec<(String, String)>,
}

/// The script that a shell loads.
pub fn script(shell: Shell, definitions: &CommandInfoWithArgs, common: CommonOptions) -> String {
    let mut places = Vec::new();
    collect("", definitions, common, &mut places);
    let takes_value = |flag: &&FlagInfo<'_>| matches!(flag.kind, FlagInfoKind::Option { .. });
    let with_value: Vec<&str> = definitions.flags.iter().filter(takes_value).map(|flag| flag.long).collect();
    match shell {
        Shell::Bash => bash(&places, &with_value),
        Shell::Zsh => zsh(&places, &with_value),
        Shell::Fish => fish(&places, &with_value),
    }
}

fn collect(typed: &str, command: &CommandInfoWithArgs, common: CommonOptions, places: &mut Vec<Place>) {
    // pg2ch alone has the common options for its own.
    let taken = if typed.is_empty() { Vec::new() } else { common(typed) };
    let options = command.flags.iter().chain(taken).flat_map(|flag| {
        let short = flag.short.map(|short| format!("-{short}"));
        [Some(flag.long.to_owned()), short].into_iter().flatten().map(|name| (name, flag.description.to_owned()))
    });
    let mut words: Vec<_> =
        command.commands.iter().map(|sub| (sub.name.to_owned(), sub.command.description.to_owned())).collect();
    if typed == "completions" {
        words.extend(Shell::ALL.map(|shell| (shell.name().to_owned(), format!("for {}", shell.name()))));
    }
    places.push(Place { typed: typed.to_owned(), options: options.collect(), words });
    for sub in &command.commands {
        collect(format!("{typed} {}", sub.name).trim_start(), &sub.command, common, places);
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The loop that finds the command, for bash and zsh: `words` says where the words are.
fn find_command(words: &str, with_value: &[&str], places: &[Place]) -> String {
    let known: Vec<_> = places.iter().skip(1).map(typed).collect();
    format!(
        "    local command='' value='' word
    for word in {words}; do
        if [[ $word == '=' ]]; then continue; fi
        if [[ -n $value ]]; then value=''; continue; fi
        case $word in
            {}) value=$word ;;
            -*) ;;
            *) case \"$command $word\" in {}) command=\"$command $word\" ;; esac ;;
        esac
    done
",
        with_value.join("|"),
        known.join("|"),
    )
}

fn bash(places: &[Place], with_value: &[&str]) -> String {
    let mut script = format!(
        "# Completions of pg2ch for bash.
_pg2ch() {{
    local offered='' cur=${{COMP_WORDS[COMP_CWORD]}}
    if [[ $cur == '=' ]]; then cur=''; fi
{}    case $value in
        --config) compopt -o filenames 2> /dev/null; mapfile -t COMPREPLY < <(compgen -f -- \"$cur\"); return ;;
        ?*) COMPREPLY=(); return ;;
    esac
    case $command in
",
        find_command("\"${COMP_WORDS[@]:1:COMP_CWORD-1}\"", with_value, places)
    );
    for place in places {
        let offered: Vec<&str> = place.words.iter().chain(&place.options).map(|(word, _)| word.as_str()).collect();
        script.push_str(&format!("        {}) offered={} ;;\n", typed(place), quoted(&offered.join(" "))));
    }
    script
        + "    esac
    mapfile -t COMPREPLY < <(compgen -W \"$offered\" -- \"$cur\")
}
complete -F _pg2ch pg2ch
"
}

/// A place as the loop has put it together: each word with a space in front.
fn typed(place: &Place) -> String {
    if place.typed.is_empty() { "''".to_owned() } else { quoted(&format!(" {}", place.typed)) }
}

fn zsh(places: &[Place], with_value: &[&str]) -> String {
    let list = |items: Vec<&(String, String)>| -> String {
        let item = |(word, description): &&(String, String)| quoted(&format!("{word}:{description}"));
        items.iter().map(item).collect::<Vec<_>>().join(" ")
    };
    let mut script = format!(
        "#compdef pg2ch
# Completions of pg2ch for zsh.
_pg2ch() {{
    local -a commands options
{}    case $value in
        --config) _files; return ;;
        ?*) return 1 ;;
    esac
    case $command in
",
        find_command("\"${(@)words[2,CURRENT-1]}\"", with_value, places)
    );
    for place in places {
        script.push_str(&format!(
            "        {})\n            commands=({})\n            options=({}) ;;\n",
            typed(place),
            list(place.words.iter().collect()),
            list(place.options.iter().collect()),
        ));
    }
    script
        + "    esac
    _describe -t commands command commands
    _describe -o -t options option options
}
if [[ $funcstack[1] == _pg2ch ]]; then _pg2ch \"$@\"; else compdef _pg2ch pg2ch; fi
"
}

fn fish(places: &[Place], with_value: &[&str]) -> String {
    let text = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let mut script = format!(
        "# Completions of pg2ch for fish.
function __pg2ch_at
    set -l found
    set -l value 0
    for word in (commandline -opc)[2..-1]
        if test $value = 1
            set value 0
            continue
        end
        switch $word
            case {}
                set value 1
            case '-*'
            case '*'
                set -a found $word
        end
    end
    test \"$found\" = \"$argv\"
end
complete -c pg2ch -f
",
        with_value.join(" ")
    );
    let mut offer = |condition: &str, (name, description): &(String, String)| {
        let word = match name.strip_prefix("--") {
            Some("config") => "-l config -r -F".to_owned(),
            Some(long) if with_value.contains(&name.as_str()) => format!("-l {long} -x"),
            Some(long) => format!("-l {long}"),
            None => name.strip_prefix('-').map_or_else(|| format!("-a {name}"), |short| format!("-s {short}")),
        };
        script.push_str(&format!("complete -c pg2ch {condition}{word} -d {}\n", text(description)));
    };
    for place in places {
        let at = format!("-n {} ", text(&format!("__pg2ch_at {}", place.typed)));
        place.words.iter().chain(&place.options).for_each(|item| offer(&at, item));
    }
    script
}
