package node

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// testAccounts are files of their own. Each gets the numbers of nobody.
func testAccounts(t testing.TB, passwd, group, shadow string) accounts {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return accounts{passwd: write("passwd", passwd), group: write("group", group), shadow: write("shadow", shadow)}
}

func TestAnAccountIsReadFromTheFiles(t *testing.T) {
	a := testAccounts(t,
		"alicea:x:1:1::/:/bin/sh\nalice:x:1000:1001:Alice,,,:/home/alice:/bin/bash\nalice:x:0:0::/:/bin/sh\nbob:x:5:5::/:\n",
		"a:x:1001:\nb:x:20:bob,alice\nc:x:21:alicea\nd:x:20:alice\nodd\ne:x:22:alice\n",
		"alice:!:::::::\n")
	got, err := a.lookup(t.Context(), "alice", time.Unix(1e9, 0))
	if err != nil {
		t.Fatal(err)
	}
	want := account{"alice", 1000, 1001, []uint32{1001, 20, 22}, "/home/alice", "/bin/bash"}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(account{})); diff != "" {
		t.Error(diff)
	}
	if got, err := a.lookup(t.Context(), "bob", time.Unix(1e9, 0)); err != nil || got.shell != "/bin/sh" {
		t.Errorf("an empty shell is %q, %v", got.shell, err)
	}
	if _, err := a.lookup(t.Context(), "carol", time.Unix(1e9, 0)); !errors.Is(err, errNoAccount) {
		t.Errorf("carol: %v", err)
	}
}

func TestAnAccountThatCannotBeUsedIsRefusedWithTheReason(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ passwd, shadow, want string }{
		"no shell there":      {"u:x:1:1::/:/no/such", "", "does not exist"},
		"shell not a program": {"u:x:1:1::/:" + plain, "", "not executable"},
		"shell a folder":      {"u:x:1:1::/:/etc", "", "not executable"},
		"shell relative":      {"u:x:1:1::/:sh", "", "not an absolute path"},
		"expired":             {"u:x:1:1::/:/bin/sh", "u:*:::::::1:", ""},
		"expired long ago":    {"u:x:1:1::/:/bin/sh", "u:*::::::1:", "expired"},
		"few fields":          {"u:x:1:1:/bin/sh", "", "fields"},
		"uid -1":              {"u:x:4294967295:1::/:/bin/sh", "", "id"},
		"uid too large":       {"u:x:4294967296:1::/:/bin/sh", "", "id"},
		"uid negative":        {"u:x:-1:1::/:/bin/sh", "", "id"},
		"gid a word":          {"u:x:1:users::/:/bin/sh", "", "id"},
	} {
		a := testAccounts(t, tt.passwd+"\n", "", tt.shadow+"\n")
		_, err := a.lookup(t.Context(), "u", time.Unix(1e9, 0))
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestALoginThatIsNoneIsNeverLookedUp(t *testing.T) {
	a := testAccounts(t, "-x:x:0:0::/:/bin/sh\nroot,x:x:0:0::/:/bin/sh\n", "", "")
	for _, login := range []string{"", "-x", "root,x", "Root", "a b", "a\nb", strings.Repeat("a", 33), "rööt"} {
		if got, err := a.lookup(t.Context(), login, time.Unix(1e9, 0)); err == nil {
			t.Errorf("%q is %+v", login, got)
		}
	}
}

// script stands for getent and id on a machine with a directory service.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAnAccountOfADirectoryIsFoundWithGetent(t *testing.T) {
	a := testAccounts(t, "root:x:0:0::/:/bin/sh\n", "", "")
	a.getent = script(t, `test "$*" = "passwd -- dora" || exit 2; echo dora:*:7000:7001::/home/dora:/bin/sh`)
	a.id = script(t, `test "$*" = "-G -- dora" && echo 7001 7002 7003`)
	got, err := a.lookup(t.Context(), "dora", time.Unix(1e9, 0))
	if err != nil {
		t.Fatal(err)
	}
	want := account{"dora", 7000, 7001, []uint32{7001, 7002, 7003}, "/home/dora", "/bin/sh"}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(account{})); diff != "" {
		t.Error(diff)
	}
	if _, err := a.lookup(t.Context(), "carol", time.Unix(1e9, 0)); !errors.Is(err, errNoAccount) {
		t.Errorf("carol: %v", err)
	}
	a.getent = script(t, `echo root:x:0:0::/:/bin/sh`)
	if got, err := a.lookup(t.Context(), "dora", time.Unix(1e9, 0)); !errors.Is(err, errNoAccount) {
		t.Errorf("somebody else's entry was taken for dora's: %+v, %v", got, err)
	}
}

func TestADirectoryThatTellsTooMuchIsNotBelieved(t *testing.T) {
	if got, err := output(t.Context(), script(t, `head -c 1000000 /dev/zero`)); err == nil {
		t.Errorf("%d bytes", len(got))
	}
}

func TestWhoseExpiryCannotBeReadIsRefused(t *testing.T) {
	now := time.Unix(1e9, 0)
	const user = "u:x:1:1::/:/bin/sh\n"
	a := testAccounts(t, user, "", "v:"+strings.Repeat("x", 2*maxGetent)+":::::::\nu:*::::::1:\n")
	if _, err := a.lookup(t.Context(), "u", now); err == nil || !strings.Contains(err.Error(), "has expired") {
		t.Errorf("after a long line: %v", err)
	}
	a = testAccounts(t, user, "", strings.Repeat("#\n", maxAccountFile/2)+"u:*::::::1:\n")
	if _, err := a.lookup(t.Context(), "u", now); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("beyond what is read: %v", err)
	}
	a = testAccounts(t, user, "", "")
	a.shadow = t.TempDir()
	if _, err := a.lookup(t.Context(), "u", now); err == nil || !strings.Contains(err.Error(), "whether the account has expired") {
		t.Errorf("a folder: %v", err)
	}
	a.shadow += "/none"
	if _, err := a.lookup(t.Context(), "u", now); err != nil {
		t.Errorf("a machine without shadow passwords: %v", err)
	}
}

func TestOnlyWhoIsNotRootMayBeKeptFromReadingExpiries(t *testing.T) {
	for _, tt := range []struct {
		a    accounts
		err  error
		want bool
	}{
		{accounts{}, fs.ErrNotExist, true},
		{accounts{}, fs.ErrPermission, false},
		{accounts{unprivileged: true}, fs.ErrPermission, true},
		{accounts{unprivileged: true}, io.ErrUnexpectedEOF, false},
	} {
		if got := tt.a.excuses(fmt.Errorf("shadow: %w", tt.err)); got != tt.want {
			t.Errorf("unprivileged %v, %v: %v", tt.a.unprivileged, tt.err, got)
		}
	}
}

func TestAnAccountOfADirectoryExpires(t *testing.T) {
	a := testAccounts(t, "root:x:0:0::/:/bin/sh\n", "", "")
	a.id = script(t, `echo 7001`)
	for _, tt := range []struct{ shadow, want string }{
		{"exit 2", ""}, // getent(1): there is no such key
		{"echo 'dora:*:::::::'", ""},
		{"echo 'dora:*::::::1:'", "has expired"},
		{"exit 1", "whether the account has expired"},
		{"exit 3", "whether the account has expired"},
		{"kill -9 $$", "whether the account has expired"},
	} {
		a.getent = script(t, `case "$*" in "passwd -- dora") echo dora:*:7000:7001::/:/bin/sh;; "shadow -- dora") `+tt.shadow+`;; *) exit 2;; esac`)
		_, err := a.lookup(t.Context(), "dora", time.Unix(1e9, 0))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.shadow, err, tt.want)
		}
	}
	a.getent = script(t, "exit 1")
	if _, err := a.lookup(t.Context(), "dora", time.Unix(1e9, 0)); err == nil || errors.Is(err, errNoAccount) {
		t.Errorf("a directory that fails: %v", err)
	}
}

func TestAGroupOfManyKeepsNobodyOut(t *testing.T) {
	members := strings.Repeat("someuser,", maxGetent/4)
	a := testAccounts(t, "u:x:1:1::/:/bin/sh\n", "big:x:5:"+members+"u\n", "")
	if got, err := a.lookup(t.Context(), "u", time.Unix(1e9, 0)); err != nil || !slices.Equal(got.groups, []uint32{1, 5}) {
		t.Errorf("%v, %v", got.groups, err)
	}
}

func TestThisMachinesRootIsFound(t *testing.T) {
	got, err := systemAccounts().lookup(t.Context(), "root", time.Unix(1e9, 0))
	if err != nil || got.uid != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}
