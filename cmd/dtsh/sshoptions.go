package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"devicetrust/client"
	"devicetrust/client/forward"
	"devicetrust/cmd/internal/cli"
	"devicetrust/identity"
)

// sshOptions are what the flags and -o ask of one dtsh ssh. As with ssh, the
// first word about a thing holds.
type sshOptions struct {
	login          string
	port           string // empty is the node's own
	jump           []jumpHost
	forwards       []forward.Spec
	agent          bool
	agentSocket    string // an agent that is named; empty is the usual one
	tty            ttyMode
	noCommand      bool
	noInput        bool
	mustForward    bool
	connectTimeout time.Duration
	alive          client.Alive
	sendEnv        []string // patterns
	setEnv         []string // NAME=VALUE
	listen         forward.Listening
	escape         escapeChar
	quiet          bool
	debug          bool
	batch          bool
	parallel       int // of many servers

	// given are the options that have had their word.
	given map[string]bool
}

// ttyMode is when the node is asked for a terminal.
type ttyMode int

const (
	ttyAuto  ttyMode = iota // for a shell that a person has a terminal for
	ttyNever                // -T
	ttyAsked                // -t, and -tt
)

// escapeChar begins an escape; 0 is "~", and noEscape is none.
type escapeChar int

const noEscape escapeChar = -1

func (e escapeChar) char() byte {
	switch {
	case e == noEscape:
		return 0
	case e == 0:
		return '~'
	default:
		return byte(e)
	}
}

// jumpHost is one node on the way to another.
type jumpHost struct {
	login, host, port string
}

// option reads -o: KEY=VALUE or "KEY VALUE", as a line of ssh_config(5).
func (o *sshOptions) option(text string) error {
	text = strings.TrimSpace(text)
	i := strings.IndexAny(text, "= \t")
	if i <= 0 {
		return errors.New("want KEY=VALUE")
	}
	key, value := text[:i], strings.TrimSpace(text[i:])
	value = strings.TrimSpace(strings.TrimPrefix(value, "="))
	if value == "" {
		return fmt.Errorf("%s has no value", key)
	}
	err := o.set(key, value)
	if refused, ok := errors.AsType[optionRefused](err); ok {
		return fmt.Errorf("%.64s %w", key, refused)
	} else if err != nil {
		return fmt.Errorf("%.64s: %w", key, err)
	}
	return nil
}

// optionRefused goes on where the option's name ends.
type optionRefused string

func (e optionRefused) Error() string { return string(e) }

// set gives an option its value, unless it has one. A wrong value is an error
// all the same.
func (o *sshOptions) set(key, value string) error {
	name := strings.ToLower(key)
	if done, err := o.add(name, value); done {
		return err
	}
	if o.given[name] {
		o = &sshOptions{}
	}
	if o.given == nil {
		o.given = map[string]bool{}
	}
	o.given[name] = true
	known, err := o.setOnce(name, unquoted(value))
	if !known {
		err = refusedOption(name, unquoted(value))
	}
	return err
}

// add is of options that may be given again.
func (o *sshOptions) add(name, value string) (is bool, err error) {
	switch name {
	case "localforward":
		return true, o.addForward(forward.ParseLocal, value)
	case "remoteforward":
		return true, o.addForward(forward.ParseRemote, value)
	case "dynamicforward":
		return true, o.addForward(forward.ParseDynamic, value)
	case "sendenv":
		for _, pattern := range strings.Fields(unquoted(value)) {
			if _, err := path.Match(pattern, ""); err != nil {
				return true, err
			}
			o.sendEnv = append(o.sendEnv, pattern)
		}
	case "setenv":
		words, err := quotedWords(value)
		if err != nil {
			return true, err
		}
		for _, w := range words {
			if name, _, ok := strings.Cut(w, "="); !ok || name == "" {
				return true, errors.New("want NAME=VALUE")
			}
			o.setEnv = append(o.setEnv, w)
		}
	default:
		return false, nil
	}
	return true, nil
}

// addForward takes the forms of the command line, and the file's with a space
// between the two sides.
func (o *sshOptions) addForward(parse func(string) (forward.Spec, error), text string) error {
	if strings.EqualFold(text, "none") {
		return nil
	}
	spec, err := parse(strings.Join(strings.Fields(unquoted(text)), ":"))
	if err != nil {
		return err
	}
	o.forwards = append(o.forwards, spec)
	return nil
}

// setOnce is of options that have one value.
func (o *sshOptions) setOnce(name, value string) (known bool, err error) {
	switch name {
	case "user":
		o.login = value
	case "port":
		o.port, err = parsePort(value)
	case "proxyjump":
		o.jump, err = parseJump(value)
	case "forwardagent":
		err = o.setAgent(value)
	case "requesttty":
		o.tty, err = oneOf(value, map[string]ttyMode{"no": ttyNever, "yes": ttyAsked, "force": ttyAsked, "auto": ttyAuto})
	case "sessiontype":
		o.noCommand, err = oneOf(value, map[string]bool{"none": true, "default": false})
	case "stdinnull":
		o.noInput, err = yesNo(value)
	case "exitonforwardfailure":
		o.mustForward, err = yesNo(value)
	case "connecttimeout":
		o.connectTimeout, err = seconds(value)
	case "serveraliveinterval":
		var d time.Duration
		d, err = seconds(value)
		o.alive.Interval, o.alive.Off = d, d == 0
	case "serveralivecountmax":
		o.alive.Misses, err = strconv.Atoi(value)
		if err != nil || o.alive.Misses < 1 {
			err = errors.New("want a number from 1")
		}
	case "gatewayports":
		o.listen.Everywhere, err = yesNo(value)
	case "streamlocalbindunlink":
		o.listen.Unlink, err = yesNo(value)
	case "streamlocalbindmask":
		var mask uint64
		if mask, err = strconv.ParseUint(value, 8, 32); err != nil || mask > 0o777 {
			err = errors.New("want an octal number as 0177")
		}
		o.listen.Mode = 0o777 &^ fs.FileMode(mask)
		o.listen.ModeSet = true
	case "escapechar":
		o.escape, err = parseEscape(value)
	case "loglevel":
		err = o.setLogLevel(value)
	case "batchmode":
		o.batch, err = yesNo(value)
	default:
		return false, nil
	}
	return true, err
}

func (o *sshOptions) setAgent(value string) error {
	if strings.HasPrefix(value, "/") {
		o.agent, o.agentSocket = true, value
		return nil
	}
	var err error
	o.agent, err = yesNo(value)
	return err
}

func (o *sshOptions) setLogLevel(value string) error {
	level, err := oneOf(strings.ToLower(value), map[string]slog.Level{
		"quiet": slog.LevelError, "fatal": slog.LevelError, "error": slog.LevelError, "info": slog.LevelInfo, "verbose": slog.LevelInfo,
		"debug": slog.LevelDebug, "debug1": slog.LevelDebug, "debug2": slog.LevelDebug, "debug3": slog.LevelDebug,
	})
	o.quiet, o.debug = level == slog.LevelError, level == slog.LevelDebug
	return err
}

// refusedOption says why an option of ssh's is not taken. One whose value asks
// for what is so anyway is.
func refusedOption(name, value string) error {
	always := map[string]string{
		"stricthostkeychecking": "yes", "checkhostip": "no", "verifyhostkeydns": "no", "updatehostkeys": "no",
		"identitiesonly": "yes", "pubkeyauthentication": "yes", "passwordauthentication": "no", "kbdinteractiveauthentication": "no",
		"preferredauthentications": "publickey", "hostbasedauthentication": "no", "gssapiauthentication": "no",
		"compression": "no", "tcpkeepalive": "yes", "controlmaster": "no", "controlpath": "none", "controlpersist": "no",
		"forwardx11": "no", "forwardx11trusted": "no", "permitlocalcommand": "no", "proxycommand": "none", "tunnel": "no",
		"addkeystoagent": "no", "forkafterauthentication": "no", "canonicalizehostname": "no", "visualhostkey": "no",
	}
	want, isAlways := always[name]
	if isAlways && strings.EqualFold(value, want) {
		return nil
	}
	switch name {
	case "stricthostkeychecking", "userknownhostsfile", "globalknownhostsfile", "knownhostscommand", "checkhostip", "verifyhostkeydns",
		"hostkeyalias", "hostkeyalgorithms", "casignaturealgorithms", "nohostauthenticationforlocalhost", "updatehostkeys", "revokedhostkeys":
		return optionRefused("is refused: a node is believed by the cluster's certificate alone")
	case "ciphers", "macs", "kexalgorithms", "pubkeyacceptedalgorithms", "pubkeyacceptedkeytypes", "requiredrsasize":
		return optionRefused("is refused: algorithms are those that are safe")
	case "identityfile", "certificatefile", "identityagent", "identitiesonly", "pkcs11provider", "securitykeyprovider", "pubkeyauthentication",
		"passwordauthentication", "kbdinteractiveauthentication", "preferredauthentications", "hostbasedauthentication", "gssapiauthentication":
		return optionRefused("is refused: nodes are reached with the certificate of the login, which dtsh status shows")
	}
	if isAlways {
		return optionRefused("is not supported, except for " + want)
	}
	return optionRefused("is not an option that dtsh ssh has")
}

// parseJump reads [LOGIN@]NODE[:PORT],…
func parseJump(text string) ([]jumpHost, error) {
	if strings.EqualFold(text, "none") {
		return nil, nil
	}
	var hops []jumpHost
	for _, word := range strings.Split(text, ",") {
		if len(hops) == maxJumps {
			return nil, fmt.Errorf("more than %d nodes on the way", maxJumps)
		}
		var h jumpHost
		h.host = strings.TrimPrefix(word, "ssh://")
		if i := strings.LastIndex(h.host, "@"); i >= 0 {
			h.login, h.host = h.host[:i], h.host[i+1:]
			if err := identity.CheckLogin(h.login); err != nil {
				return nil, fmt.Errorf("%.64q is no account on a server", h.login)
			}
		}
		// An IPv6 address without a port has more colons than one.
		if i := strings.LastIndex(h.host, ":"); i >= 0 && (strings.Count(h.host, ":") == 1 || strings.HasPrefix(h.host, "[") && h.host[i-1] == ']') {
			port, err := parsePort(h.host[i+1:])
			if err != nil {
				return nil, fmt.Errorf("%.256q: %w", word, err)
			}
			h.host, h.port = h.host[:i], port
		}
		h.host = strings.TrimSuffix(strings.TrimPrefix(h.host, "["), "]")
		if h.host == "" {
			return nil, fmt.Errorf("%.256q: want [LOGIN@]NODE[:PORT]", word)
		}
		hops = append(hops, h)
	}
	return hops, nil
}

func parsePort(text string) (string, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return "", errors.New("want a port from 1 to 65535")
	}
	return strconv.FormatUint(n, 10), nil
}

// parseEscape reads one character, ^X, or none.
func parseEscape(text string) (escapeChar, error) {
	switch {
	case text == "none":
		return noEscape, nil
	case len(text) == 1 && text[0] > ' ' && text[0] < 0x7f:
		return escapeChar(text[0]), nil
	case len(text) == 2 && text[0] == '^' && text[1] > '@' && text[1] < 0x7f:
		return escapeChar(text[1] & 0x1f), nil
	}
	return 0, errors.New("want one character, ^ and a letter, or none")
}

func yesNo(value string) (bool, error) {
	return oneOf(strings.ToLower(value), map[string]bool{"yes": true, "true": true, "no": false, "false": false})
}

func oneOf[T any](value string, values map[string]T) (T, error) {
	v, ok := values[value]
	if ok {
		return v, nil
	}
	words := make([]string, 0, len(values))
	for w := range values {
		words = append(words, w)
	}
	slices.Sort(words)
	return v, fmt.Errorf("%.64q is none of %s", value, strings.Join(words, ", "))
}

// seconds reads a number of them, or a time as 30s and 2m.
func seconds(value string) (time.Duration, error) {
	if n, err := strconv.ParseUint(value, 10, 32); err == nil {
		value = strconv.FormatUint(n, 10) + "s"
	}
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 || d > maxWait {
		return 0, errors.New("want seconds, or a time such as 30s or 2m, of a day at most")
	}
	return d, nil
}

func unquoted(value string) string {
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		return value[1 : len(value)-1]
	}
	return value
}

// quotedWords splits at spaces that no double quotes are around.
func quotedWords(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	inside, begun := false, false
	for _, r := range text {
		switch {
		case r == '"':
			inside, begun = !inside, true
		case (r == ' ' || r == '\t') && !inside:
			if begun {
				words = append(words, word.String())
			}
			word.Reset()
			begun = false
		default:
			begun = true
			word.WriteRune(r)
		}
	}
	if inside {
		return nil, errors.New("a quote without its end")
	}
	if begun {
		words = append(words, word.String())
	}
	return words, nil
}

// environment is what is set for the session: SetEnv's, and of ours what
// SendEnv's patterns name and none with "-" before it takes away.
func (o *sshOptions) environment(names []string, getenv func(string) string) []string {
	env := slices.Clone(o.setEnv)
	matches := func(pattern, name string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil
	}
	for _, name := range names {
		sent := false
		for _, pattern := range o.sendEnv {
			if taken, isTaken := strings.CutPrefix(pattern, "-"); isTaken && matches(taken, name) {
				sent = false
			} else if matches(pattern, name) {
				sent = true
			}
		}
		if sent {
			env = append(env, name+"="+getenv(name))
		}
	}
	return env
}

// optionFlag is a flag that stands for an option.
type optionFlag struct {
	of    *sshOptions
	key   string
	value string // what a flag without an argument means
	kind  string
	says  string
}

func (f *optionFlag) String() string { return f.says }
func (f *optionFlag) Type() string   { return f.kind }

// IsBoolFlag tells whether it has no argument.
func (f *optionFlag) IsBoolFlag() bool { return f.value != "" }

func (f *optionFlag) Set(text string) error {
	if f.key == "" {
		return f.of.option(text)
	}
	if f.value != "" {
		switch text {
		case "true":
			text = f.value
		case "false":
			return nil
		default:
			return cli.Usagef("takes no value")
		}
		// Of -A and -a, and of -t and -T, the last one holds, also over -o.
		delete(f.of.given, f.key)
	}
	return f.of.set(f.key, text)
}
