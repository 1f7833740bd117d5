package sshd

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"devicetrust/policy"
)

// What sshd is told to permit where it is to permit nothing, but some of the
// other kind: an empty list is everything to it, and there is no word for
// nothing in these options (auth-options.c, handle_permit).
const (
	// nowhere: TCP connects to no address of a broadcast (RFC 9293 section 3.9.2.3),
	// and there is no name that somebody could answer for.
	nowhere = "255.255.255.255:1"
	// noListener: sshd writes what is asked for in lower case before it compares
	// (channels.c, remote_open_match), and not what is permitted.
	noListener = "NONE:1"
)

// line is what sshd is told of a: options and the login (sshd(8), AUTHORIZED_KEYS
// FILE FORMAT). All is forbidden but what is named after restrict; sshd gives
// only what the certificate permits too. loc is the time zone of sshd. note is
// what could not be told, or empty.
func (a *admission) line(loc *time.Location) (text, note string) {
	permit, limits := a.identity.Permit, a.limits
	options := []string{"restrict"}
	for _, o := range []struct {
		name  string
		given bool
	}{
		{"pty", permit.PTY},
		{"agent-forwarding", permit.AgentForwarding && limits.AgentForwarding},
		{"X11-forwarding", permit.X11Forwarding && limits.X11Forwarding},
	} {
		if o.given {
			options = append(options, o.name)
		}
	}
	if permit.PortForwarding && limits.PortForwarding {
		var ports []string
		ports, note = portOptions(a.forwards)
		options = append(options, ports...)
	}
	options = append(options, optionWith("expiry-time", expiryTime(a.identity.ValidBefore, loc)))
	return strings.Join(options, ",") + " " + a.login + "\n", note
}

// portOptions are none where no port may be forwarded.
func portOptions(f policy.PortForwards) (options []string, note string) {
	open, listen := portTargets(f.Open), portTargets(f.Listen)
	if !f.Open.All && len(open) == 0 && !f.Listen.All && len(listen) == 0 {
		return nil, ""
	}
	options = append(options, "port-forwarding")
	options = append(options, narrowedTo("permitopen", f.Open.All, open, nowhere)...)
	options = append(options, narrowedTo("permitlisten", f.Listen.All, listen, noListener)...)
	if n := len(strings.Join(options, ",")); n > maxOptions {
		return nil, fmt.Sprintf("no port may be forwarded: the roles list so many that sshd would be told %d bytes, and it takes %d", n, maxOptions)
	}
	return options, ""
}

// narrowedTo are the options where not all is permitted.
func narrowedTo(option string, all bool, targets []string, nothing string) []string {
	if all {
		return nil
	}
	if len(targets) == 0 {
		targets = []string{nothing}
	}
	options := make([]string, len(targets))
	for i, t := range targets {
		options[i] = optionWith(option, t)
	}
	return options
}

// portTargets writes p as sshd reads it, without what it would read as something
// else: it takes ? and * in the host of permitlisten for patterns (match.c), and
// ends a line at # (auth2-pubkeyfile.c).
func portTargets(p policy.Ports) []string {
	var texts []string
	for _, t := range p.Listed {
		host, port := t.Host, "*"
		if t.Port != 0 {
			port = strconv.Itoa(int(t.Port))
		}
		if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
			host = "[" + host + "]"
		} else if host != "*" && strings.Trim(host, hostLetters) != "" {
			continue
		}
		texts = append(texts, host+":"+port)
	}
	return texts
}

// hostLetters are those of host names and IPv4 addresses; policy has them in
// lower case.
const hostLetters = "abcdefghijklmnopqrstuvwxyz0123456789-_."

// optionWith is the option with a value that has no quote in it.
func optionWith(option, value string) string { return option + `="` + value + `"` }

// expiryTime is t as sshd reads it, which is the time on its own clock's face:
// Z after it is known from OpenSSH 9.1 on, and a line with what is not known
// lets nobody in (misc.c, parse_absolute_time). It is not before t: where the
// face shows a time twice, because summer ends, it is that of an hour later.
// The certificate holds by its own time anyhow.
func expiryTime(t time.Time, loc *time.Location) string {
	const face = "20060102150405"
	text := t.In(loc).Format(face)
	if t.Add(-time.Hour).In(loc).Format(face) == text {
		return t.Add(time.Hour).In(loc).Format(face)
	}
	return text
}
