package sshd

import (
	"context"
	"errors"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// leastVersion is what the drop-in needs: Include (OpenSSH 8.2).
var leastVersion = opensshVersion{8, 2}

type opensshVersion struct{ major, minor int }

func (v opensshVersion) less(than opensshVersion) bool {
	return v.major < than.major || v.major == than.major && v.minor < than.minor
}

func (v opensshVersion) String() string { return strconv.Itoa(v.major) + "." + strconv.Itoa(v.minor) }

var versionText = regexp.MustCompile(`OpenSSH_([0-9]{1,3})\.([0-9]{1,3})`)

// parseVersion finds the version in what `sshd -V` prints. Those before 9.2 do
// not know the option, and print it with their usage.
func parseVersion(out []byte) (opensshVersion, error) {
	found := versionText.FindSubmatch(out)
	if found == nil {
		return opensshVersion{}, errors.New("it does not say which OpenSSH it is")
	}
	major, _ := strconv.Atoi(string(found[1]))
	minor, _ := strconv.Atoi(string(found[2]))
	return opensshVersion{major, minor}, nil
}

func (a *auditor) version(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c := exec.CommandContext(ctx, a.SSHD, "-V")
	out := &bounded{most: 64 << 10}
	c.Stdout, c.Stderr, c.WaitDelay = out, out, time.Second
	err := c.Run()
	version, err2 := parseVersion(out.Bytes())
	if err2 != nil { // the exit status is 1 where it does not know -V
		a.add(Finding{
			Code: "openssh-unknown", Severity: SeverityOpen, Setting: "sshd", Value: brief(errors.Join(err, err2).Error()), Want: "OpenSSH " + leastVersion.String() + " or later", File: a.SSHD,
			Problem: "It cannot be told what this server does with its configuration.", Remedy: "Name OpenSSH's sshd with --sshd.",
		})
		return
	}
	if version.less(leastVersion) {
		a.add(Finding{
			Code: "openssh-too-old", Severity: SeverityOpen, Setting: "sshd", Value: version.String(), Want: leastVersion.String() + " or later", File: a.SSHD,
			Problem: "This version does not read sshd_config.d: what is installed there is not in force.", Remedy: "Update OpenSSH.",
		})
	}
}
