package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/cmd/internal/cli"
)

func TestTheHelpIsComplete(t *testing.T) {
	for _, complaint := range cli.Complaints(newRoot(&cli.Env{})) {
		t.Error(complaint)
	}
}

func TestFlagsWinOverTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dtnoded.yaml")
	text := "auth_server: file:1\nnodename: from-file\nlabels: {env: prod}\nca_pin: [sha256:00]\n" +
		"proxy_protocol_from: [10.0.0.0/8]\nshutdown_grace: 30s\ndrain_timeout: 1h\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := startCommand(&cli.Env{})
	if err := c.ParseFlags([]string{"--nodename=flag"}); err != nil {
		t.Fatal(err)
	}
	got, err := configure(c, settings{NodeName: "flag", Listen: "0.0.0.0:3022"}, file)
	if err != nil {
		t.Fatal(err)
	}
	want := settings{AuthServer: "file:1", NodeName: "flag", Listen: "0.0.0.0:3022", Labels: map[string]string{"env": "prod"}, CAPin: []string{"sha256:00"},
		ProxyProtocolFrom: []string{"10.0.0.0/8"}, ShutdownGrace: 30 * time.Second, DrainTimeout: time.Hour}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAnUnknownKeyIsAnErrorThatNamesItsLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte("listen: 127.0.0.1:0\nlisten_on: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	env := &cli.Env{Args: []string{"start", "--config=" + file}, Stderr: &stderr}
	if status := cli.Run(t.Context(), env, newRoot); status != 2 {
		t.Errorf("status %d, want 2", status)
	}
	if got := stderr.String(); !strings.Contains(got, "line 2") || !strings.Contains(got, "listen_on") {
		t.Errorf("said %q", got)
	}
}

func TestGatewayPortsAreThoseOfSshd(t *testing.T) {
	for word, want := range map[string]string{
		"no": "no", "yes": "yes", "clientspecified": "clientspecified", `"no"`: "no",
		"maybe": "", "true": "", "": "no value",
	} {
		file := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(file, []byte("ssh:\n  gateway_ports: "+word+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := configure(startCommand(&cli.Env{}), settings{}, file)
		if want == "no value" {
			want = ""
			if err != nil {
				t.Errorf("%q: %v", word, err)
			}
		} else if (err == nil) != (want != "") {
			t.Errorf("%q: %v", word, err)
		}
		if string(got.SSH.GatewayPorts) != want {
			t.Errorf("%q is %q", word, got.SSH.GatewayPorts)
		}
	}
}

func TestATimeLessThanNoneIsAnErrorThatNamesTheFlag(t *testing.T) {
	for flag, s := range map[string]settings{
		"--shutdown-grace": {ShutdownGrace: -1},
		"--drain-timeout":  {DrainTimeout: -1},
	} {
		if _, err := s.config(); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: %v", flag, err)
		}
	}
}
