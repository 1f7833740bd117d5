package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"devicetrust/devices/tpm"
	"devicetrust/e2e/stage"
)

// agents are two people at one machine, one with a key in its TPM, which swtpm
// is, and one with a key in a file; each has an agent.
type agents struct {
	*server
	// sockets and configs are those of each person's agent and plain ssh.
	sockets, configs map[string]string
}

func startAgents(b *testing.B) *agents {
	b.Helper()
	a := &agents{server: startServer(b), sockets: map[string]string{}, configs: map[string]string{}}
	var err error
	a.tpm, err = a.stage.TPM(b.Context(), "laptop")
	must(b, err)
	must(b, stage.DMI(filepath.Join(a.stage.Dir, "dmi"), "TAG-1"))
	for person, key := range map[string]string{"chip": "tpm", "file": "software"} {
		a.dtsh(b, person, "dtctl", "users", "add", person, "--roles=access,device-admin", "--logins="+a.login, "--password-stdin")
		a.dtsh(b, person, "dtsh", "login", "--ca-pin="+a.pin, "--password-stdin")
		if key == "tpm" {
			a.dtsh(b, person, "dtsh", "device", "enroll", "--current-device")
		}
		a.dtsh(b, person, "dtsh", "login", "--key="+key, "--password-stdin")
		a.dtsh(b, person, "dtsh", "agent", "--background")
		a.sockets[person] = filepath.Join(a.stage.Dir, person, "agent.sock")
		a.configs[person] = filepath.Join(a.stage.Dir, person+".conf")
		must(b, os.WriteFile(a.configs[person], []byte(a.dtsh(b, person, "dtsh", "config")), 0o600))
		b.Cleanup(func() { a.dtsh(b, person, "dtsh", "agent", "--kill") })
	}
	return a
}

// BenchmarkAgentLogin measures a login of a stock ssh whose key an agent has: in
// the TPM, and by turns in memory. extra-ms is the median of the differences.
func BenchmarkAgentLogin(b *testing.B) {
	a := startAgents(b)
	login := func(person string) time.Duration {
		start := time.Now()
		cmd := exec.CommandContext(context.WithoutCancel(b.Context()), "ssh", "-F", a.configs[person], "-o", "BatchMode=yes",
			"-o", "IdentityAgent="+a.sockets[person], a.login+"@server-1", "true")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%s: %v\n%s", person, err, out)
		}
		return time.Since(start)
	}
	var extra, file []time.Duration
	pair := func() {
		file = append(file, login("file"))
		extra = append(extra, login("chip")-file[len(file)-1])
	}
	for b.Loop() {
		pair()
	}
	for len(extra) < 50 {
		pair()
	}
	b.ReportMetric(milliseconds(median(file)), "file-ms")
	b.ReportMetric(milliseconds(median(extra)), "extra-ms")
}

// BenchmarkAgentSign has an agent sign for 16 clients at once. With a key in the
// TPM x_bare is the rate over that of the TPM itself, asked by one program.
func BenchmarkAgentSign(b *testing.B) {
	a := startAgents(b)
	b.Run("software", func(b *testing.B) { a.sign(b, "file") })
	b.Run("tpm", func(b *testing.B) {
		rate := a.sign(b, "chip")
		a.dtsh(b, "chip", "dtsh", "agent", "--kill") // a socket of swtpm's is one program's
		bare := a.bareRate(b, "chip")
		a.dtsh(b, "chip", "dtsh", "agent", "--background")
		b.ReportMetric(bare, "bare/s")
		b.ReportMetric(rate/bare, "x_bare")
	})
}

// sign reports how many signatures a second the agent of a person makes.
func (a *agents) sign(b *testing.B, person string) (rate float64) {
	b.Helper()
	const clients = 16
	var failed atomic.Pointer[error]
	done := make(chan struct{})
	tokens := make(chan struct{})
	for range clients {
		conn, err := net.Dial("unix", a.sockets[person])
		must(b, err)
		go func() {
			defer func() { done <- struct{}{} }()
			defer conn.Close()
			client := agent.NewClient(conn)
			key, data, err := authentication(client, a.login)
			for range tokens {
				if err == nil {
					_, err = client.Sign(key, data)
				}
				if err != nil {
					failed.Store(&err)
				}
			}
		}()
	}
	start, n := time.Now(), 0
	for b.Loop() {
		tokens <- struct{}{}
		n++
	}
	close(tokens)
	for range clients {
		<-done
	}
	rate = float64(n) / time.Since(start).Seconds()
	if err := failed.Load(); err != nil {
		b.Fatal(*err)
	}
	b.ReportMetric(rate, "sign/s")
	return rate
}

// authentication is what ssh asks an agent to sign with its certificate (RFC
// 4252 section 7).
func authentication(client agent.ExtendedAgent, login string) (gossh.PublicKey, []byte, error) {
	keys, err := client.List()
	if err != nil {
		return nil, nil, err
	}
	for _, key := range keys {
		if strings.Contains(key.Format, "-cert-v01@") {
			return key, gossh.Marshal(struct {
				Session               []byte
				Type                  byte
				User, Service, Method string
				Signed                bool
				Algorithm             string
				Key                   []byte
			}{bytes.Repeat([]byte{1}, sha256.Size), 50, login, "ssh-connection", "publickey", true, key.Format, key.Blob}), nil
		}
	}
	return nil, nil, os.ErrNotExist
}

// bareRate is how many signatures a second the TPM makes with a person's key.
func (a *agents) bareRate(b *testing.B, person string) float64 {
	b.Helper()
	found, err := filepath.Glob(filepath.Join(a.stage.Dir, person, "keys", "*", person+".tpm.json"))
	must(b, err)
	if len(found) != 1 {
		b.Fatalf("%v", found)
	}
	text, err := os.ReadFile(found[0])
	must(b, err)
	var kept tpm.LoginKeys
	must(b, json.Unmarshal(text, &kept))
	t, err := tpm.Open(b.Context(), a.tpm.Address())
	must(b, err)
	defer func() { must(b, t.Close()) }()
	digest := make([]byte, sha256.Size)
	start, n := time.Now(), 0
	for time.Since(start) < 2*time.Second {
		_, err := t.Sign(b.Context(), kept.SSH, digest)
		must(b, err)
		n++
	}
	return float64(n) / time.Since(start).Seconds()
}
