package node

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"devicetrust/api"
	"devicetrust/identity/krl"
	"devicetrust/node/sshd"
	"devicetrust/policy"
)

// companion is a stock sshd, which does not run, that would join p.
func companion(t *testing.T, p *plane) CompanionConfig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("what sshd runs has to be root's")
	}
	const program = "/usr/sbin/sshd"
	if _, err := os.Stat(program); err != nil {
		t.Skip("there is no sshd: make test installs it")
	}
	dir, err := os.MkdirTemp("/var/lib", "dt-test-") // sshd runs nothing of /tmp
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	check(t, os.Chmod(dir, 0o755))
	check(t, os.MkdirAll("/run/sshd", 0o755))
	check(t, os.Mkdir(filepath.Join(dir, "sshd_config.d"), 0o755))
	key := filepath.Join(dir, "ssh_host_ed25519_key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	config, noded := filepath.Join(dir, "sshd_config"), filepath.Join(dir, "dtnoded")
	check(t, os.WriteFile(config, []byte("Include "+dir+"/sshd_config.d/*.conf\nPort 2222\nHostKey "+key+"\n"), 0o600))
	check(t, os.WriteFile(noded, []byte("#!/bin/sh\n"), 0o755))
	return CompanionConfig{
		AuthServer: p.address, Token: "good-token", CAPins: []Pin{pinOf(p.tls.cert)}, DataDir: filepath.Join(dir, "lib", "data"),
		Name: "db1", Labels: map[string]string{"team": "db"}, Log: quiet(), Now: time.Now,
		SSHD: sshd.Installation{Server: sshd.Server{Program: program, Config: config}, Noded: noded, NoReload: true},
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lies is all that lies beside sshd's configuration.
func lies(t *testing.T, c CompanionConfig) map[string]string {
	t.Helper()
	all := map[string]string{}
	check(t, filepath.WalkDir(filepath.Dir(c.SSHD.Server.Config), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		all[path] = info.Mode().String()
		if info.Mode().IsRegular() {
			text, err := os.ReadFile(path)
			all[path] += string(text)
			return err
		}
		return nil
	}))
	return all
}

func TestAStockServerHasAllThatItDecidesByWhenItHasJoined(t *testing.T) {
	p := startPlane(t)
	p.lock(policy.LockTarget{User: "mallory"})
	c := companion(t, p)
	got, err := InstallSSHD(t.Context(), c)
	check(t, err)
	if got.NodeID != "node-1" || got.Name != "db1" || got.Cluster != "test" || got.Again || len(got.Addresses) != 1 || !strings.HasSuffix(got.Addresses[0], ":2222") {
		t.Errorf("%+v", got)
	}
	authorities, err := got.Dir.ReadUserCA()
	check(t, err)
	state, err := got.Dir.StateFile(0).Load(authorities, "test", "node-1")
	check(t, err)
	view, err := state.View(nil)
	check(t, err)
	if locks := view.Policy.Locks; len(locks) != 1 || locks[0].Target.User != "mallory" {
		t.Errorf("the first state has locks %v", locks)
	}
	list, err := os.ReadFile(got.Dir.KRL())
	check(t, err)
	if _, err := krl.Check(list, authorities); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(c.DataDir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the data directory is %v: %v", info, err)
	}
}

func TestTheTokenIsSpentWhenAllElseWasLookedAt(t *testing.T) {
	p := startPlane(t)
	c := companion(t, p)
	check(t, os.WriteFile(c.SSHD.Server.Config, []byte("Nonsense yes\n"), 0o600))
	before := lies(t, c)
	if _, err := InstallSSHD(t.Context(), c); err == nil || get(p, func() int { return p.joins }) != 0 || get(p, func() string { return p.token }) == "" {
		t.Errorf("%d joins, token %q: %v", p.joins, p.token, err)
	}
	if diff := cmp.Diff(before, lies(t, c)); diff != "" {
		t.Error(diff)
	}
}

func TestAServerThatIsNotLetInIsAsItWas(t *testing.T) {
	p := startPlane(t)
	for name, fault := range map[string]func(c *CompanionConfig){
		"another token":         func(c *CompanionConfig) { c.Token = "guessed" },
		"another control plane": func(c *CompanionConfig) { c.CAPins = []Pin{{}} },
		"none that answers":     func(c *CompanionConfig) { c.AuthServer = "127.0.0.1:1" },
		"no token":              func(c *CompanionConfig) { c.Token = "" },
		"a name that is none":   func(c *CompanionConfig) { c.Name = "a b" },
		"an address of nothing": func(c *CompanionConfig) { c.PublicAddrs = []string{"x:y:z"} },
	} {
		c := companion(t, p)
		fault(&c)
		before := lies(t, c)
		if got, err := InstallSSHD(t.Context(), c); err == nil {
			t.Errorf("%s: %+v", name, got)
		} else if strings.Contains(err.Error(), "guessed") {
			t.Errorf("%s: it tells the token: %v", name, err)
		}
		if diff := cmp.Diff(before, lies(t, c)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// The token is spent by then; the identity is kept, so that no other is needed.
func TestAServerThatHasJoinedNeedsNoTokenToInstallAgain(t *testing.T) {
	p := startPlane(t)
	c := companion(t, p)
	p.change(func() { p.preference = nil }) // there is no state to be had
	_, err := InstallSSHD(t.Context(), c)
	r, ok := errors.AsType[*api.Refusal](err)
	if !ok || !strings.Contains(r.Hint, "needs no token") {
		t.Fatal(err)
	}
	if _, err := os.Lstat(string(sshd.DirOf(c.SSHD.Server.Config))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is half installed: %v", err)
	}
	p.change(func() { p.preference = startPlane(t).preference })
	c.Token, c.CAPins, c.AuthServer = "", nil, ""
	for _, again := range []bool{false, true} {
		got, err := InstallSSHD(t.Context(), c)
		if err != nil || got.Again != again {
			t.Errorf("%+v: %v", got, err)
		}
	}
	if joins := get(p, func() int { return p.joins }); joins != 1 {
		t.Errorf("it joined %d times", joins)
	}
	c.PublicAddrs = []string{"db1.example.com"}
	if _, err := InstallSSHD(t.Context(), c); err != nil || get(p, func() int { return p.renewals }) != 1 {
		t.Errorf("by another name it was certified %d times again: %v", p.renewals, err)
	}
}

// It is installed again while the side-car has the data directory.
func TestInstallingAgainDoesNotAskTheSideCarToStop(t *testing.T) {
	p := startPlane(t)
	c := companion(t, p)
	_, err := InstallSSHD(t.Context(), c)
	check(t, err)
	lock, err := lockDataDir(c.DataDir)
	check(t, err)
	defer lock.Close()
	if _, err := InstallSSHD(t.Context(), c); err != nil {
		t.Error(err)
	}
}

// A replica may be a moment behind what the side-car has heard.
func TestInstallingAgainForgetsNothingThatTheSideCarHeard(t *testing.T) {
	p := startPlane(t)
	c := companion(t, p)
	p.lock(policy.LockTarget{User: "mallory"})
	got, err := InstallSSHD(t.Context(), c)
	check(t, err)
	p.change(func() { p.sequence, p.locks = 0, nil })
	_, err = InstallSSHD(t.Context(), c)
	check(t, err)
	authorities, err := got.Dir.ReadUserCA()
	check(t, err)
	state, err := got.Dir.StateFile(0).Load(authorities, "test", "node-1")
	check(t, err)
	view, err := state.View(nil)
	if err != nil || len(view.Policy.Locks) != 1 {
		t.Errorf("the state of change %d has locks %v: %v", state.Sequence(), view.Policy.Locks, err)
	}
}

func TestTheFolderOfANodeIsNotForASideCar(t *testing.T) {
	p := startPlane(t)
	c := companion(t, p)
	check(t, os.MkdirAll(c.DataDir, 0o700))
	_, err := loadKeys(c.DataDir)
	check(t, err)
	own := &savedIdentity{Version: savedIdentityVersion, NodeID: "node-2", Cluster: "test"}
	check(t, own.save(c.DataDir))
	before := lies(t, c)
	_, err = InstallSSHD(t.Context(), c)
	r, ok := errors.AsType[*api.Refusal](err)
	if !ok || r.Code != connect.CodeFailedPrecondition || !strings.Contains(r.Message, "another host key") {
		t.Error(err)
	}
	if _, err := UninstallSSHD(t.Context(), c.SSHD, c.DataDir, true); err == nil {
		t.Error("it was purged")
	}
	if diff := cmp.Diff(before, lies(t, c)); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsPurgedIsTheSideCarsFolder(t *testing.T) {
	p := startPlane(t)
	c := companion(t, p)
	before := lies(t, c)
	_, err := InstallSSHD(t.Context(), c)
	check(t, err)
	c.SSHD.NoReload = false
	if _, err := UninstallSSHD(t.Context(), c.SSHD, c.DataDir, false); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(c.DataDir, identityFile)); err != nil {
		t.Errorf("without being asked to: %v", err)
	}
	if _, err := UninstallSSHD(t.Context(), c.SSHD, c.DataDir, true); err != nil {
		t.Error(err)
	}
	check(t, os.RemoveAll(filepath.Dir(c.DataDir))) // ours to make, and not to remove
	if diff := cmp.Diff(before, lies(t, c)); diff != "" {
		t.Error(diff)
	}
}

func TestAStockServerSaysOfItselfWhereItListensAndWhatItIs(t *testing.T) {
	c := CompanionConfig{Name: "db1", Log: quiet(), Now: time.Now}
	for name, row := range map[string]struct {
		listens, public, want []string
	}{
		"somewhere":          {[]string{"192.0.2.1:22", "[2001:db8::1]:2222"}, nil, []string{"192.0.2.1:22", "[2001:db8::1]:2222"}},
		"in a domain":        {[]string{"192.0.2.1:22 rdomain x"}, nil, []string{"192.0.2.1:22"}},
		"known by a name":    {[]string{"0.0.0.0:2022", "[::]:2022"}, []string{"db1.example.com"}, []string{"db1.example.com:2022"}},
		"a name with a port": {[]string{"192.0.2.1:22"}, []string{"db1.example.com:22022"}, []string{"db1.example.com:22022"}},
	} {
		c.PublicAddrs = row.public
		info, err := c.info(row.listens)
		if err != nil || info.GetEnforcer() != "sshd" {
			t.Errorf("%s: %v: %v", name, info, err)
		}
		if diff := cmp.Diff(row.want, info.GetAddresses()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if _, err := c.info([]string{"nowhere"}); err == nil {
		t.Error("it listens nowhere")
	}
}
