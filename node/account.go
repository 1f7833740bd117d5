package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"devicetrust/identity"
)

// account is a user of this machine.
type account struct {
	name        string
	uid, gid    uint32
	groups      []uint32 // supplementary, gid among them
	home, shell string
}

// accounts looks users up: in the files first, then, for users who come from
// a directory, with getent(1) and id(1). The C library would do it in this
// process, and whatever it loads (nsswitch.conf(5)) would be root here.
type accounts struct {
	passwd, group, shadow string
	// getent and id are programs; empty: only the files.
	getent, id string
}

// systemAccounts are this machine's.
func systemAccounts() accounts {
	return accounts{
		passwd: "/etc/passwd", group: "/etc/group", shadow: "/etc/shadow",
		getent: "/usr/bin/getent", id: "/usr/bin/id",
	}
}

// errNoAccount: the login is nobody here.
var errNoAccount = errors.New("there is no such account on this node")

// lookup gives the account of login. An account that may not be used
// (expired, without a shell that can be run) is an error that says why.
func (a accounts) lookup(ctx context.Context, login string, now time.Time) (account, error) {
	if err := identity.CheckLogin(login); err != nil {
		return account{}, err
	}
	acc, err := a.find(ctx, login)
	if err != nil {
		return account{}, err
	}
	if err := a.checkExpiry(login, now); err != nil {
		return account{}, err
	}
	return acc, checkShell(acc.shell)
}

func (a accounts) find(ctx context.Context, login string) (account, error) {
	line, err := findLine(a.passwd, login)
	if err != nil {
		return account{}, err
	}
	if line != "" {
		acc, err := parsePasswd(line)
		if err != nil {
			return account{}, err
		}
		acc.groups, err = a.localGroups(acc)
		return acc, err
	}
	return a.findInDirectory(ctx, login)
}

// findLine gives the first line of a colon-separated file whose first field
// is name, as the C library does; "" where there is none.
func findLine(path, name string) (string, error) {
	var found string
	err := eachLine(path, func(line string) bool {
		if first, _, ok := strings.Cut(line, ":"); ok && first == name {
			found = line
			return false
		}
		return true
	})
	return found, err
}

func eachLine(path string, visit func(string) bool) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot look up accounts: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxAccountFile))
	lines.Buffer(nil, maxGetent)
	for lines.Scan() {
		if !visit(lines.Text()) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("cannot read %s: %w", path, err)
	}
	return nil
}

// parsePasswd reads a line of passwd(5).
func parsePasswd(line string) (account, error) {
	f := strings.Split(line, ":")
	if len(f) != 7 {
		return account{}, fmt.Errorf("the account's passwd entry has %d fields and not 7", len(f))
	}
	uid, err1 := parseID(f[2])
	gid, err2 := parseID(f[3])
	if err := errors.Join(err1, err2); err != nil {
		return account{}, err
	}
	acc := account{name: f[0], uid: uid, gid: gid, home: f[5], shell: f[6]}
	if acc.shell == "" {
		acc.shell = "/bin/sh" // passwd(5)
	}
	if !filepath.IsAbs(acc.shell) {
		return account{}, fmt.Errorf("the account's shell %q is not an absolute path", acc.shell)
	}
	return acc, nil
}

// parseID refuses (uid_t)-1, which setresuid(2) takes for "leave as it is".
func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 {
		return 0, fmt.Errorf("the account's id %q is not one", s)
	}
	return uint32(n), nil
}

func (a accounts) localGroups(acc account) ([]uint32, error) {
	groups := []uint32{acc.gid}
	err := eachLine(a.group, func(line string) bool {
		f := strings.Split(line, ":")
		if len(f) != 4 || !slices.Contains(strings.Split(f[3], ","), acc.name) {
			return true
		}
		if gid, err := parseID(f[2]); err == nil && !slices.Contains(groups, gid) {
			groups = append(groups, gid)
		}
		return len(groups) < maxGroups
	})
	return groups, err
}

func (a accounts) findInDirectory(ctx context.Context, login string) (account, error) {
	if a.getent == "" {
		return account{}, errNoAccount
	}
	line, err := output(ctx, a.getent, "passwd", "--", login)
	if err != nil {
		return account{}, err
	}
	if line == "" {
		return account{}, errNoAccount
	}
	acc, err := parsePasswd(line)
	if err != nil {
		return account{}, err
	}
	if acc.name != login {
		// Some directories answer for other spellings; policy and the
		// record are about this one.
		return account{}, errNoAccount
	}
	ids, err := output(ctx, a.id, "-G", "--", login)
	if err != nil {
		return account{}, err
	}
	acc.groups = []uint32{acc.gid}
	for _, s := range strings.Fields(ids) {
		gid, err := parseID(s)
		if err != nil {
			return account{}, err
		}
		if !slices.Contains(acc.groups, gid) && len(acc.groups) < maxGroups {
			acc.groups = append(acc.groups, gid)
		}
	}
	return acc, nil
}

// output runs a program without input or environment and gives its first
// line; "" where it says by its status that there is nothing (getent(1): 2).
func output(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, getentTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.WaitDelay = getentTimeout
	var out bounded
	cmd.Stdout = &out
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot look up the account with %s: %w", filepath.Base(program), err)
	}
	line, _, _ := strings.Cut(string(out.text), "\n")
	return line, nil
}

// bounded keeps the first maxGetent bytes.
type bounded struct{ text []byte }

func (b *bounded) Write(p []byte) (int, error) {
	b.text = append(b.text, p[:min(len(p), maxGetent-len(b.text))]...)
	return len(p), nil
}

// checkExpiry refuses an account whose day of expiry (shadow(5), field 8) has
// come: "usermod --expiredate 1" is how administrators close an account for
// keys too. A locked password ("!") closes only the password, as with sshd
// under PAM; cloud images lock them all.
func (a accounts) checkExpiry(login string, now time.Time) error {
	line, err := findLine(a.shadow, login)
	if err != nil || line == "" {
		// Without shadow passwords, or not readable because we are not root.
		return nil //nolint:nilerr // what cannot be read cannot say that an account expired
	}
	f := strings.Split(line, ":")
	if len(f) < 8 || f[7] == "" {
		return nil
	}
	day, err := strconv.ParseInt(f[7], 10, 32)
	if err != nil {
		return fmt.Errorf("the account's day of expiry %q is not a number", f[7])
	}
	if day >= 0 && now.Unix()/(24*60*60) >= day {
		return errors.New("the account has expired")
	}
	return nil
}

// checkShell is what sshd asks of a shell (auth.c, allowed_user): that it is
// there, a file, and can be run.
func checkShell(shell string) error {
	info, err := os.Stat(shell)
	if err != nil {
		return fmt.Errorf("the account's shell %q does not exist", shell)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("the account's shell %q is not executable", shell)
	}
	return nil
}
