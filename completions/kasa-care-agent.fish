# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_kasa_care_agent_global_optspecs
    string join \n h/help V/version
end

function __fish_kasa_care_agent_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_kasa_care_agent_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_kasa_care_agent_using_subcommand
    set -l cmd (__fish_kasa_care_agent_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c kasa-care-agent -n "__fish_kasa_care_agent_needs_command" -s h -l help -d 'Print help'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_needs_command" -s V -l version -d 'Print version'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_needs_command" -f -a "run" -d 'Runs the service'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_needs_command" -f -a "check-config" -d 'Lists every fault of the configuration, and tries what it names'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_needs_command" -f -a "status" -d 'Prints what is wrong, then plan, link, uploads and camera'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_needs_command" -f -a "verify" -d 'Judges an entitlement as the camera would, field by field'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_needs_command" -f -a "explain" -d 'Says what a code means, and what to do about it'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_needs_command" -f -a "support" -d 'Writes one archive for support'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_needs_command" -f -a "factory-reset" -d 'Erases clips, entitlement and traces of the account'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_needs_command" -f -a "motion" -d 'Tells the running agent of motion'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_needs_command" -f -a "supervise" -d 'Runs the service where no systemd does, and restarts it'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_needs_command" -f -a "help" -d 'Prints this overview, or everything about a command'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand run" -s c -l config -d 'The configuration; /etc/kasa-care-agent/config.toml unless given.' -r -F
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand check-config" -s c -l config -d 'The configuration; /etc/kasa-care-agent/config.toml unless given.' -r -F
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand check-config" -l connect -d 'Also try DNS, TCP, TLS, MQTT, the API and the clock, step by step.'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand check-config" -l print -d 'Try nothing, and print the configuration in effect, each value with its origin. Secrets are hidden.'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand check-config" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand status" -s c -l config -d 'The configuration; /etc/kasa-care-agent/config.toml unless given.' -r -F
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand status" -l json -d 'Print /status.json as it is, for scripts.'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand status" -l watch -d 'Stay, ask every second, and show the status again whenever it changes. Ctrl-C ends it.'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand verify" -s c -l config -d 'The configuration; /etc/kasa-care-agent/config.toml unless given.' -r -F
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand verify" -l keyset -d 'Judge with this keyset instead of the one that the camera has.' -r -F
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand verify" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand explain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand support" -s c -l config -d 'The configuration; /etc/kasa-care-agent/config.toml unless given.' -r -F
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand support" -s o -l output -d 'Write to FILE, which only its owner may read; to standard output unless given.' -r -F
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand support" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand factory-reset" -s c -l config -d 'The configuration; /etc/kasa-care-agent/config.toml unless given.' -r -F
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand factory-reset" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand motion" -s c -l config -d 'The configuration; /etc/kasa-care-agent/config.toml unless given.' -r -F
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand motion" -l score -d 'The detector\'s confidence, 0 to 1; 1 unless given.' -r
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand motion" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand supervise" -s c -l config -d 'The configuration of `kasa-care-agent run`, where COMMAND is not given.' -r -F
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand supervise" -l hang-after -d 'Kill COMMAND without a sign of progress for this long; 30 unless given, 0: never.' -r
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand supervise" -l watchdog -d 'A watchdog device or file, kept by COMMAND\'s progress alone.' -r -F
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand supervise" -l pidfile -d 'Holds the process id, and a lock.' -r -F
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand supervise" -l status-file -d 'Holds one line: what runs, how often and why it was restarted.' -r -F
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand supervise" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kasa-care-agent -n "__fish_kasa_care_agent_using_subcommand help" -s h -l help -d 'Print help (see more with \'--help\')'
