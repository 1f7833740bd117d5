package node

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
)

// SSHConfig is the section ssh: of dtnoded's configuration: what is rarely
// changed, in the words of sshd_config(5) with _ between them. It is as it was
// written, unchecked. What is left out, or zero, is as limits.go and
// algorithms.go have it.
type SSHConfig struct {
	// MaxStartups is START:RATE:FULL, or FULL: connections on which nobody is
	// admitted yet. From START on, RATE percent of new ones are dropped, and
	// more the nearer they come to FULL.
	MaxStartups string `yaml:"max_startups"`
	// PerSourceMaxStartups is how many of them one IPv4 address or IPv6 /64
	// may have.
	PerSourceMaxStartups int `yaml:"per_source_max_startups"`
	// LoginGraceTime from the first byte to admission.
	LoginGraceTime time.Duration `yaml:"login_grace_time"`
	MaxAuthTries   int           `yaml:"max_auth_tries"`
	// MaxSessions of one connection; a role may allow fewer.
	MaxSessions int `yaml:"max_sessions"`
	// A peer is asked whether it lives each ClientAliveInterval, and left when
	// it has answered nothing for ClientAliveCountMax of them.
	ClientAliveInterval time.Duration `yaml:"client_alive_interval"`
	ClientAliveCountMax int           `yaml:"client_alive_count_max"`
	// RekeyLimit is bytes with K, M or G: after so many, either way, there are
	// new keys.
	RekeyLimit string `yaml:"rekey_limit"`
	// MaxConnectionTime ends a connection, whatever happens on it; zero does
	// not.
	MaxConnectionTime time.Duration `yaml:"max_connection_time"`

	Ciphers                  []string `yaml:"ciphers"`
	KexAlgorithms            []string `yaml:"kex_algorithms"`
	MACs                     []string `yaml:"macs"`
	PubkeyAcceptedAlgorithms []string `yaml:"pubkey_accepted_algorithms"`
	// Compression may be said, and be "no".
	Compression string `yaml:"compression"`
	// TCPKeepAlive is on unless it is false.
	TCPKeepAlive *bool `yaml:"tcp_keep_alive"`

	// PrintMOTD and PrintLastLog are on unless they are false.
	PrintMOTD    *bool `yaml:"print_motd"`
	PrintLastLog *bool `yaml:"print_last_log"`
	// AcceptEnv are patterns with * and ? of the variables that clients may
	// send; none is LANG and LC_*.
	AcceptEnv []string `yaml:"accept_env"`
	// PAMService is the file in /etc/pam.d by which accounts are asked for and
	// sessions opened; empty: PAM has no say.
	PAMService string `yaml:"pam_service"`
	// PAMHelper is dtnoded-pam's path; empty: beside dtnoded, or in
	// /usr/libexec.
	PAMHelper string `yaml:"pam_helper"`
	// GatewayPorts is where clients may have the node listen (ssh -R).
	GatewayPorts GatewayPorts `yaml:"gateway_ports"`
}

// sshSettings are an SSHConfig that was checked. With the zero value's limits
// there is room for nobody.
type sshSettings struct {
	limits         limits
	algorithms     algorithms
	noTCPKeepAlive bool
}

// check gives the settings, or an *api.Refusal that names the key.
func (c SSHConfig) check() (sshSettings, error) {
	s := sshSettings{limits: defaultLimits(), noTCPKeepAlive: c.TCPKeepAlive != nil && !*c.TCPKeepAlive}
	l, a := &s.limits, &s.algorithms
	count := int64(l.silence / l.keepalive)
	for _, setting := range []struct {
		key  string
		take func() error
	}{
		{"max_startups", func() error { return l.parseStartups(c.MaxStartups) }},
		{"per_source_max_startups", func() error {
			return within(&l.unauthenticatedPerAddress, c.PerSourceMaxStartups, 1, l.unauthenticated)
		}},
		{"login_grace_time", func() error { return within(&l.loginGrace, c.LoginGraceTime, time.Second, maxLoginGrace) }},
		{"max_auth_tries", func() error { return within(&l.authTries, c.MaxAuthTries, 1, maxAuthTries) }},
		{"max_sessions", func() error { return within(&l.sessions, c.MaxSessions, 1, maxSessions) }},
		{"client_alive_interval", func() error {
			return within(&l.keepalive, c.ClientAliveInterval, time.Second, maxAliveInterval)
		}},
		{"client_alive_count_max", func() error { return within(&count, int64(c.ClientAliveCountMax), 1, maxAliveCount) }},
		{"rekey_limit", func() (err error) { a.rekeyAfter, err = parseRekeyLimit(c.RekeyLimit); return err }},
		{"max_connection_time", func() error {
			return within(&l.connectionTime, c.MaxConnectionTime, time.Second, math.MaxInt64)
		}},
		{"ciphers", func() (err error) { a.ciphers, err = among(c.Ciphers, ciphers()); return err }},
		{"kex_algorithms", func() (err error) { a.keyExchanges, err = among(c.KexAlgorithms, keyExchanges()); return err }},
		{"macs", func() (err error) { a.macs, err = among(c.MACs, macs()); return err }},
		{"pubkey_accepted_algorithms", func() (err error) {
			a.userKeys, err = among(c.PubkeyAcceptedAlgorithms, userKeys())
			return err
		}},
		{"compression", func() error { return checkCompression(c.Compression) }},
	} {
		if err := setting.take(); err != nil {
			return sshSettings{}, api.Refuse(connect.CodeInvalidArgument, "ssh.%s: %v", setting.key, err)
		}
	}
	l.silence = l.keepalive * time.Duration(count)
	return s, nil
}

// within sets where to value unless that is zero; what is outside of
// [least, most] is an error.
func within[T int | int64 | time.Duration](where *T, value, least, most T) error {
	if value == 0 {
		return nil
	}
	if value < least {
		return fmt.Errorf("%v is less than %v", value, least)
	}
	if value > most {
		return fmt.Errorf("%v is more than %v", value, most)
	}
	*where = value
	return nil
}

// among gives names where all of them are known; none is an empty list, which
// stands for the default.
func among(names, known []string) ([]string, error) {
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("%.64q is not one of %s", name, strings.Join(known, ", "))
		}
	}
	return names, nil
}

// parseStartups reads sshd's MaxStartups; "" leaves l as it is.
func (l *limits) parseStartups(text string) error {
	if text == "" {
		return nil
	}
	var numbers []int
	for word := range strings.SplitSeq(text, ":") {
		n, err := strconv.ParseUint(word, 10, 31)
		if err != nil {
			n = 0 // is none of them
		}
		numbers = append(numbers, int(n))
	}
	if len(numbers) == 1 { // FULL: up to there, none is dropped
		numbers = []int{numbers[0], 100, numbers[0]}
	}
	if len(numbers) != 3 {
		return fmt.Errorf("%.64q is not START:RATE:FULL such as 128:30:256", text)
	}
	from, rate, full := numbers[0], numbers[1], numbers[2]
	if from < 1 || from > full || full > l.connections || rate < 1 || rate > 100 {
		return fmt.Errorf("%.64q: want 1 <= START <= FULL <= %d, and a RATE from 1 to 100", text, l.connections)
	}
	l.dropFrom, l.dropRate, l.unauthenticated = from, rate, full
	return nil
}

// parseRekeyLimit reads sshd's RekeyLimit without its second word: zero is
// what is good for the cipher (RFC 4344 section 3.2).
func parseRekeyLimit(text string) (uint64, error) {
	words := strings.Fields(text)
	if len(words) == 2 && words[1] != "none" {
		return 0, fmt.Errorf("%.64q: new keys by the clock are not available; max_connection_time bounds how long keys are used", text)
	}
	if text == "" || len(words) > 0 && words[0] == "default" && len(words) <= 2 {
		return 0, nil
	}
	if len(words) == 0 || len(words) > 2 {
		return 0, fmt.Errorf("%.64q is not a number of bytes such as 512M", text)
	}
	digits, shift := words[0], 0
	switch digits[len(digits)-1] {
	case 'K', 'k':
		shift = 10
	case 'M', 'm':
		shift = 20
	case 'G', 'g':
		shift = 30
	}
	if shift > 0 {
		digits = digits[:len(digits)-1]
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%.64q is not a number of bytes such as 512M", text)
	}
	if n <<= shift; n < minRekey || n > maxRekey {
		return 0, fmt.Errorf("%.64q is not between %dK and %dG", text, minRekey>>10, maxRekey>>30)
	}
	return n, nil
}

// checkCompression: what a client chooses is compressed together with what it
// is to keep secret tells the length of it, and a compressed packet may be a
// thousand times as long as it came.
func checkCompression(text string) error {
	if text == "" || text == "no" {
		return nil
	}
	return fmt.Errorf("%.64q: nothing is compressed here, before authentication or after; say no, or nothing, and compress files themselves", text)
}
