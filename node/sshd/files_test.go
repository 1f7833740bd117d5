package sshd

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
)

func node1() Node {
	return Node{
		Cluster: "example.com", ID: "0190c9a4-7b1e-7c3a-9d2f-5a6b7c8d9e0f", Name: "DB1",
		Installed: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
	}
}

const node1Text = `{"version":1,"cluster":"example.com","node_id":"0190c9a4-7b1e-7c3a-9d2f-5a6b7c8d9e0f","name":"DB1","installed":"2026-03-01T12:00:00Z"}` + "\n"

func TestWhatLiesOnTheMachineIsBesideTheConfiguration(t *testing.T) {
	d := DirOf("/etc/ssh/sshd_config")
	got := []string{DropIn("/etc/ssh/sshd_config"), d.UserCA(), d.KRL(), d.State(), d.StateFile(7).Path, d.NodeFile(), d.HostCertificate("ed25519")}
	want := []string{"/etc/ssh/sshd_config.d/00-devicetrust.conf", "/etc/ssh/devicetrust/user_ca.pub", "/etc/ssh/devicetrust/krl",
		"/etc/ssh/devicetrust/state", "/etc/ssh/devicetrust/state", "/etc/ssh/devicetrust/node.json", "/etc/ssh/devicetrust/ssh_host_ed25519_key-cert.pub"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestANodeIsReadAsItWasWritten(t *testing.T) {
	d := Dir(t.TempDir())
	if _, err := d.ReadNode(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of no file: %v", err)
	}
	if err := d.WriteNode(node1()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(d.NodeFile())
	if err != nil || string(text) != node1Text {
		t.Errorf("wrote %q: %v", text, err)
	}
	got, err := d.ReadNode()
	if diff := cmp.Diff(node1(), got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	info, err := os.Stat(d.NodeFile())
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("it is %v: %v", info.Mode(), err)
	}
}

func TestANodeThatIsNoneIsNeitherWrittenNorRead(t *testing.T) {
	d := Dir(t.TempDir())
	for name, fault := range map[string]func(*Node){
		"nothing":                   func(n *Node) { *n = Node{} },
		"no cluster":                func(n *Node) { n.Cluster = "" },
		"a cluster of two lines":    func(n *Node) { n.Cluster = "a\nb" },
		"no ID":                     func(n *Node) { n.ID = "" },
		"an ID that leads out":      func(n *Node) { n.ID = "../x" },
		"no name":                   func(n *Node) { n.Name = "" },
		"a name of two words":       func(n *Node) { n.Name = "db 1" },
		"installed at no time":      func(n *Node) { n.Installed = time.Time{} },
		"installed before all this": func(n *Node) { n.Installed = time.Unix(-1, 0) },
	} {
		n := node1()
		fault(&n)
		if err := d.WriteNode(n); err == nil {
			t.Errorf("%s: was written", name)
		}
	}
	for name, text := range map[string]string{
		"nothing":             "",
		"null":                "null\n",
		"cut":                 node1Text[:len(node1Text)-3],
		"without its newline": strings.TrimSuffix(node1Text, "\n"),
		"and more":            node1Text + "x",
		"another version":     strings.Replace(node1Text, `"version":1`, `"version":2`, 1),
		"no version":          strings.Replace(node1Text, `"version":1,`, ``, 1),
		"an unknown key":      strings.Replace(node1Text, `"version":1`, `"version":1,"x":1`, 1),
		"a key twice":         strings.Replace(node1Text, `"version":1`, `"version":1,"version":1`, 1),
		"a key in capitals":   strings.Replace(node1Text, `"cluster"`, `"Cluster"`, 1),
		"an empty cluster":    strings.Replace(node1Text, `example.com`, ``, 1),
		"an impossible ID":    strings.Replace(node1Text, `0190c9a4`, `../`, 1),
		"a time elsewhere":    strings.Replace(node1Text, `12:00:00Z`, `12:00:00+01:00`, 1),
		"no time":             strings.Replace(node1Text, `2026-03-01T12:00:00Z`, `yesterday`, 1),
		"a long name":         strings.Replace(node1Text, `DB1`, strings.Repeat("x", maxNode), 1),
	} {
		if err := os.WriteFile(d.NodeFile(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if n, err := d.ReadNode(); err == nil || n != (Node{}) {
			t.Errorf("%s: was read as %+v", name, n)
		}
	}
}

func FuzzNodeFile(f *testing.F) {
	f.Add([]byte(node1Text))
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := parseNode(text)
		if err != nil {
			return
		}
		if again, err := n.marshal(); err != nil || !bytes.Equal(again, text) {
			t.Errorf("%q is written as %q: %v", text, again, err)
		}
	})
}

func keyOf(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

// newKey is an authority's, made of one byte.
func newKey(t testing.TB, seed byte) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerFromKey(keyOf(seed))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAuthoritiesAreReadAsTheyWereWritten(t *testing.T) {
	d := Dir(t.TempDir())
	want := []ssh.PublicKey{newKey(t, 1).PublicKey(), newKey(t, 2).PublicKey()}
	if err := d.WriteUserCA(want); err != nil {
		t.Fatal(err)
	}
	got, err := d.ReadUserCA()
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if err := d.WriteUserCA(nil); err == nil {
		t.Error("none were written")
	}
}

func TestAuthoritiesThatCannotBeReadAreNone(t *testing.T) {
	good := string(ssh.MarshalAuthorizedKey(newKey(t, 1).PublicKey()))
	for name, text := range map[string]string{
		"nothing":            "",
		"comments only":      "# " + good,
		"a key with options": "cert-authority " + good,
		"garbage":            "ssh-ed25519 AAAA\n",
		"good and garbage":   good + "x\n",
		"too many":           strings.Repeat(good, maxAuthorities+1),
		"a long comment":     good + "# " + strings.Repeat("x", maxUserCA),
		"a certificate":      "ssh-ed25519-cert-v01@openssh.com " + strings.Fields(good)[1] + "\n",
	} {
		d := Dir(t.TempDir())
		if err := os.WriteFile(d.UserCA(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if keys, err := d.ReadUserCA(); err == nil || keys != nil {
			t.Errorf("%s: gave %v", name, keys)
		}
	}
}

func FuzzUserCA(f *testing.F) {
	f.Add(ssh.MarshalAuthorizedKey(newKey(f, 1).PublicKey()))
	f.Fuzz(func(t *testing.T, text []byte) {
		if keys, err := parseUserCA(text); err == nil && (len(keys) == 0 || len(keys) > maxAuthorities) {
			t.Errorf("%q gives %d keys", text, len(keys))
		}
	})
}
