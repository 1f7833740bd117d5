package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"devicetrust/node/helper"
)

// pam asks PAM about accounts, and opens its sessions, by the program
// dtnoded-pam (decision 0011). The zero value does neither.
type pam struct {
	service string // of /etc/pam.d
	program string
}

func (p pam) on() bool { return p.service != "" }

var pamService = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}$`)
})

// newPAM looks whether there is all that PAM needs: what is found to be missing
// at a login would keep everybody out.
func newPAM(service, program string) (pam, error) {
	if service == "" {
		return pam{}, nil
	}
	if !pamService().MatchString(service) {
		return pam{}, fmt.Errorf("%.64q is not the name of a file in /etc/pam.d", service)
	}
	if os.Geteuid() != 0 {
		return pam{}, errors.New("PAM is for dtnoded as root")
	}
	if !anyFile("/etc/pam.d/"+service, "/usr/lib/pam.d/"+service) {
		return pam{}, fmt.Errorf("there is no /etc/pam.d/%s", service)
	}
	var err error
	if program == "" {
		if program, err = findPAMHelper(); err != nil {
			return pam{}, err
		}
	}
	info, err := os.Stat(program)
	if err != nil {
		return pam{}, fmt.Errorf("dtnoded-pam cannot be used: %w", err)
	}
	if !filepath.IsAbs(program) || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return pam{}, fmt.Errorf("%q is not the absolute path of a program", program)
	}
	return pam{service, program}, checkOwn(program, info)
}

func anyFile(paths ...string) bool {
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return true
		}
	}
	return false
}

// findPAMHelper looks beside this program, and where it is installed.
func findPAMHelper() (string, error) {
	const name, packaged = "dtnoded-pam", "/usr/libexec/dtnoded-pam"
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	beside := filepath.Dir(self)
	for _, path := range []string{filepath.Join(beside, name), filepath.Join(beside, "../libexec", name), packaged} {
		if anyFile(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is no %s beside %s, and no %s", name, self, packaged)
}

// account asks whether PAM lets the account in, once for each connection. An
// error says why it does not, in PAM's words where there are some.
func (p pam) account(ctx context.Context, login, from string) error {
	if !p.on() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, pamTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.program, "account", p.service, login, from)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	cmd.WaitDelay = pamTimeout
	var said bounded
	cmd.Stdout = &said
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("PAM does not answer within %s", pamTimeout)
	}
	if text := plain(string(bytes.ReplaceAll(bytes.TrimSpace(said.text), []byte("\n"), []byte("; ")))); text != "" {
		return fmt.Errorf("PAM does not let the account in: %s", text)
	}
	return fmt.Errorf("PAM cannot be asked: %w", err)
}

// open has r run in a session of PAM's. What stays this program does not (see
// the decision): its account was asked for with the connection.
func (p pam) open(r helper.Request, login, from, tty string) helper.Request {
	if !p.on() || r.As != helper.AsAccount || r.Work != helper.NoWork {
		return r
	}
	groups := make([]string, 0, len(r.Groups))
	for _, g := range r.Groups {
		groups = append(groups, strconv.FormatUint(uint64(g), 10))
	}
	argv := []string{
		filepath.Base(p.program), "session", p.service, login, from, tty,
		strconv.FormatUint(uint64(r.UID), 10), strconv.FormatUint(uint64(r.GID), 10), strings.Join(groups, ","),
		r.Home, r.Program,
	}
	return helper.Request{
		As: helper.AsRoot, Terminal: r.Terminal, Program: p.program, Argv: append(argv, r.Argv...), Env: r.Env,
		UID: r.UID, Home: r.Home, // for what is said of a failure
	}
}

// kill ends the process for good. One that keeps a PAM session ends what it
// keeps, closes it, and ends itself; unless it takes too long.
func (p *process) kill() {
	sig := unix.SIGKILL
	if p.keeper {
		sig = keeperEnd
	}
	_ = unix.Kill(-p.pid, sig)
}

// keeperEnd is SIGKILL for what dtnoded-pam keeps. Clients cannot send it
// (RFC 4254 section 6.10).
const keeperEnd = unix.SIGPWR
