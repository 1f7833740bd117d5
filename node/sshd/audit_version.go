package sshd

import (
	"context"
	"fmt"
)

// version looks whether sshd is one of which it is known what it does.
func (a *auditor) version(ctx context.Context) {
	need := fmt.Sprintf("OpenSSH %d.%d or later", leastMajor, leastMinor)
	major, minor, err := Server{Program: a.SSHD, Config: a.SSHDConfig}.version(ctx)
	if err != nil {
		a.add(Finding{
			Code: "openssh-unknown", Severity: SeverityOpen, Setting: "sshd", Value: brief(err.Error()), Want: need, File: a.SSHD,
			Problem: "It cannot be told what this server does with its configuration.", Remedy: "Name OpenSSH's sshd with --sshd.",
		})
		return
	}
	if tooOld(major, minor) {
		a.add(Finding{
			Code: "openssh-too-old", Severity: SeverityOpen, Setting: "sshd", Value: fmt.Sprintf("%d.%d", major, minor), Want: need, File: a.SSHD,
			Problem: "This version does not do all that the installed lines ask for.", Remedy: "Update OpenSSH.",
		})
	}
}

func tooOld(major, minor int) bool {
	return major < leastMajor || major == leastMajor && minor < leastMinor
}
