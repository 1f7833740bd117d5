package node

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"devicetrust/audit/event"
)

func TestTheEnvironmentIsReadAsPAMDoes(t *testing.T) {
	got, err := parseEnvironment("# a comment\n\nA=1\nexport B=two words  # why\nC=\"quoted \"\nD='x'\nE=\nA=2\nF=\"half\n  G=g\nH=a=b\n")
	if err != nil {
		t.Error(err)
	}
	want := variables{"A=2", "B=two words", "C=quoted ", "D=x", "E=", "F=half", "G=g", "H=a=b"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	got, err = parseEnvironment("A=1\nnothing\n1B=2\nA B=3\nC=\x00\nD=4\n")
	if err == nil || !slices.Equal(got, variables{"A=1", "D=4"}) {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := parseEnvironment(strings.Repeat("AAA=1\n", 3) + manyVariables(maxSiteEnv+1)); err == nil || len(got) != maxSiteEnv {
		t.Errorf("%d, %v", len(got), err)
	}
}

func manyVariables(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("V" + strings.Repeat("x", i%40) + string(rune('a'+i%26)) + string(rune('a'+i/26)) + "=1\n")
	}
	return b.String()
}

func FuzzEnvironment(f *testing.F) {
	f.Add("A=1\nexport B=\"2\"\n#\n")
	f.Add("=\n\"=\"\nA='")
	f.Fuzz(func(t *testing.T, text string) {
		v, _ := parseEnvironment(text)
		if len(v) > maxSiteEnv {
			t.Errorf("%d variables", len(v))
		}
		names := map[string]bool{}
		for _, one := range v {
			name, value, ok := strings.Cut(one, "=")
			if !ok || !isEnvName(name) || names[name] || strings.ContainsAny(value, "\x00\n") {
				t.Errorf("%q of %q", one, text)
			}
			names[name] = true
		}
	})
}

func TestTheMachinesEnvironmentIsTheSessions(t *testing.T) {
	files := testLoginFiles(t)
	files.environment = filepath.Join(t.TempDir(), "environment")
	if err := os.WriteFile(files.environment, []byte("SITE=here\nPATH=/site/bin:/usr/bin:/bin\nUSER=root\nLANG=xx\nDT_USER=root\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n := startNode(t, func(c *serverConfig) { c.loginFiles = files })
	c := n.mustDial(tester, n.cluster.certify(t, alice(), newSigner(t)))
	s := newSession(t, c)
	s.Setenv("LANG", "C")
	out, err := s.Output("env")
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(string(out), "\n")
	for _, want := range []string{"SITE=here", "PATH=/site/bin:/usr/bin:/bin", "USER=" + tester, "LANG=xx", "DT_USER=alice"} {
		if !slices.Contains(got, want) {
			t.Errorf("no %s in %q", want, got)
		}
	}
	// A FIFO there neither hangs nor keeps anybody out.
	if err := os.Remove(files.environment); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(files.environment, 0o666); err != nil {
		t.Fatal(err)
	}
	if out, _, status := run(t, c, "echo $SITE"); out != "\n" || status != 0 {
		t.Errorf("%q, %d", out, status)
	}
	if !strings.Contains(n.log.String(), "is not a file") {
		t.Error("the log does not tell")
	}
}

func TestNobodyButRootEntersAMachineThatIsClosed(t *testing.T) {
	files := testLoginFiles(t)
	first, second := filepath.Join(t.TempDir(), "nologin"), filepath.Join(t.TempDir(), "nologin")
	files.nologin = []string{first, second}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := files.closedFor(1); got != "" {
		t.Errorf("without a file: %q", got)
	}
	write(second, "Back at\n\x1b[31mnoon")
	const want = "nobody may log in to this machine at present: Back at ?[31mnoon"
	if got := files.closedFor(1); got != want {
		t.Errorf("%q", got)
	}
	if got := files.closedFor(0); got != "" {
		t.Errorf("root: %q", got)
	}
	write(first, "")
	if got := files.closedFor(1); got != "nobody may log in to this machine at present" {
		t.Errorf("%q", got)
	}
	write(first, strings.Repeat("x", maxNologin+1))
	if got := files.closedFor(1); got != "nobody may log in to this machine at present" {
		t.Errorf("a long file: %.200q", got)
	}
	write(first, "closed")

	if os.Geteuid() != 0 {
		t.Skip("the sessions below are another account's, which needs root")
	}
	n := startNode(t, func(c *serverConfig) { c.loginFiles = files })
	key := n.cluster.certify(t, alice(), newSigner(t))
	var banner string
	if _, err := n.dial(tester, key, &banner); err == nil || !strings.Contains(banner, "at present: closed") {
		t.Errorf("%v, %q", err, banner)
	}
	if e := n.recorded(event.SessionRejected); !strings.Contains(e.Message, "at present: closed") || e.User != "alice" {
		t.Errorf("%+v", e)
	}
	n.mustDial("root", key)
}
