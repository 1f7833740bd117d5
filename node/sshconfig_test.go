package node

import (
	"errors"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	gossh "golang.org/x/crypto/ssh"

	"devicetrust/api"
)

func TestWithoutASectionAllIsAsTheDefaultsHaveIt(t *testing.T) {
	s, err := SSHConfig{}.check()
	if err != nil || s.limits != defaultLimits() || s.noTCPKeepAlive {
		t.Errorf("%+v, %v", s, err)
	}
	config := s.algorithms.config()
	if diff := cmp.Diff(ciphers(), config.Ciphers); diff != "" || config.RekeyThreshold != 0 {
		t.Errorf("rekey after %d; %s", config.RekeyThreshold, diff)
	}
}

func TestWhatTheSectionSaysIsDone(t *testing.T) {
	off := false
	s, err := SSHConfig{
		MaxStartups: "10:30:100", PerSourceMaxStartups: 5, LoginGraceTime: 2 * time.Minute, MaxAuthTries: 3, MaxSessions: 20,
		ClientAliveInterval: 15 * time.Second, ClientAliveCountMax: 4, RekeyLimit: "512M none", MaxConnectionTime: 12 * time.Hour,
		Ciphers: []string{gossh.CipherChaCha20Poly1305}, KexAlgorithms: []string{gossh.KeyExchangeMLKEM768X25519},
		MACs: []string{gossh.HMACSHA512ETM}, PubkeyAcceptedAlgorithms: []string{gossh.KeyAlgoSKED25519},
		Compression: "no", TCPKeepAlive: &off,
	}.check()
	if err != nil {
		t.Fatal(err)
	}
	want := defaultLimits()
	want.dropFrom, want.dropRate, want.unauthenticated, want.unauthenticatedPerAddress = 10, 30, 100, 5
	want.loginGrace, want.authTries, want.sessions = 2*time.Minute, 3, 20
	want.keepalive, want.silence, want.connectionTime = 15*time.Second, time.Minute, 12*time.Hour
	if s.limits != want {
		t.Errorf("%+v, want %+v", s.limits, want)
	}
	config := s.algorithms.config()
	if config.RekeyThreshold != 512<<20 || !s.noTCPKeepAlive || len(config.Ciphers) != 1 || len(config.KeyExchanges) != 1 ||
		len(config.MACs) != 1 || len(config.PublicKeyAuthAlgorithms) != 1 {
		t.Errorf("%+v", config)
	}
	if s, err := (SSHConfig{MaxStartups: "7"}).check(); err != nil || s.limits.dropPercent(6) != 0 || s.limits.dropPercent(7) != 100 {
		t.Errorf("one number: %+v, %v", s.limits, err)
	}
	for text, want := range map[string]uint64{"default": 0, "default none": 0, "65536": 64 << 10, "64k": 64 << 10, "1M": 1 << 20, "1G none": 1 << 30} {
		if got, err := parseRekeyLimit(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
}

func TestASettingThatCannotBeUsedIsNamed(t *testing.T) {
	for _, tt := range []struct {
		config SSHConfig
		want   string
	}{
		{SSHConfig{MaxStartups: "10:30"}, "ssh.max_startups: "},
		{SSHConfig{MaxStartups: "x:5:y"}, "ssh.max_startups: "},
		{SSHConfig{MaxStartups: "0:30:10"}, "ssh.max_startups: "},
		{SSHConfig{MaxStartups: "20:30:10"}, "ssh.max_startups: "},
		{SSHConfig{MaxStartups: "10:101:20"}, "ssh.max_startups: "},
		{SSHConfig{MaxStartups: "10:30:9000"}, "ssh.max_startups: "},
		{SSHConfig{MaxStartups: "-1"}, "ssh.max_startups: "},
		{SSHConfig{PerSourceMaxStartups: -1}, "ssh.per_source_max_startups: -1 is less than 1"},
		{SSHConfig{PerSourceMaxStartups: 257}, "ssh.per_source_max_startups: "},
		{SSHConfig{LoginGraceTime: time.Hour}, "ssh.login_grace_time: 1h0m0s is more than 10m0s"},
		{SSHConfig{MaxAuthTries: -1}, "ssh.max_auth_tries: "}, // x/crypto's for no end of them
		{SSHConfig{MaxSessions: 5000}, "ssh.max_sessions: "},
		{SSHConfig{ClientAliveInterval: time.Millisecond}, "ssh.client_alive_interval: "},
		{SSHConfig{ClientAliveCountMax: -3}, "ssh.client_alive_count_max: "},
		{SSHConfig{RekeyLimit: "1G 1h"}, "ssh.rekey_limit: "},
		{SSHConfig{RekeyLimit: "1K"}, "ssh.rekey_limit: "},
		{SSHConfig{RekeyLimit: "64G"}, "ssh.rekey_limit: "},
		{SSHConfig{RekeyLimit: "G"}, "ssh.rekey_limit: "},
		{SSHConfig{RekeyLimit: " "}, "ssh.rekey_limit: "},
		{SSHConfig{RekeyLimit: "18446744073709551615G"}, "ssh.rekey_limit: "},
		{SSHConfig{MaxConnectionTime: -time.Hour}, "ssh.max_connection_time: "},
		{SSHConfig{Ciphers: []string{"aes128-cbc"}}, `ssh.ciphers: "aes128-cbc" is not one of aes128-gcm@openssh.com`},
		{SSHConfig{Ciphers: []string{"3des-cbc"}}, "ssh.ciphers: "},
		{SSHConfig{Ciphers: []string{""}}, "ssh.ciphers: "},
		{SSHConfig{KexAlgorithms: []string{"diffie-hellman-group14-sha1"}}, "ssh.kex_algorithms: "},
		{SSHConfig{KexAlgorithms: []string{"ecdh-sha2-nistp256"}}, "ssh.kex_algorithms: "},
		{SSHConfig{MACs: []string{"hmac-sha1"}}, "ssh.macs: "},
		{SSHConfig{MACs: []string{"hmac-sha2-256"}}, "ssh.macs: "}, // not over what is encrypted
		{SSHConfig{PubkeyAcceptedAlgorithms: []string{"ssh-rsa"}}, "ssh.pubkey_accepted_algorithms: "},
		{SSHConfig{PubkeyAcceptedAlgorithms: []string{"ssh-dss"}}, "ssh.pubkey_accepted_algorithms: "},
		{SSHConfig{Compression: "delayed"}, "ssh.compression: "},
	} {
		_, err := tt.config.check()
		r, ok := errors.AsType[*api.Refusal](err)
		if !ok || r.Code != connect.CodeInvalidArgument || !strings.HasPrefix(r.Message, tt.want) {
			t.Errorf("%+v: %v, want %s…", tt.config, err, tt.want)
		}
	}
}

func TestABrokenSectionStopsTheStartBeforeTheTokenIsSpent(t *testing.T) {
	err := Run(t.Context(), Config{Log: quiet(), Now: time.Now, DataDir: t.TempDir(), SSH: SSHConfig{MaxStartups: "many"}})
	if err == nil || !strings.Contains(err.Error(), "ssh.max_startups") {
		t.Error(err)
	}
}

func FuzzSettingsAreWithinTheirBounds(f *testing.F) {
	for _, s := range []string{"", "default", "1G none", "512M", "64K 1h", "K", " ", "10:30:100", "7", "1:100:1", "::", "10:30:100:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := parseRekeyLimit(text); err == nil && n != 0 && (n < minRekey || n > maxRekey) {
			t.Errorf("%q: %d", text, n)
		}
		l := defaultLimits()
		if err := l.parseStartups(text); err != nil && l != defaultLimits() {
			t.Errorf("%q is refused and has changed %+v", text, l)
		}
		before := 0
		for strangers := range l.connections + 1 {
			now := l.dropPercent(strangers)
			if now < before || now > 100 || strangers >= l.unauthenticated && now != 100 {
				t.Fatalf("%q: with %d strangers %d of 100 are dropped, with one less %d", text, strangers, now, before)
			}
			before = now
		}
	})
}
