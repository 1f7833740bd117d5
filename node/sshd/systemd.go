package sshd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"devicetrust/durable"
)

// systemd is the one of the machine.
type systemd struct {
	// running is there where it runs (sd_booted(3)).
	running string
	// units is the folder for an administrator's.
	units   string
	program string
}

func theSystemd() systemd {
	return systemd{running: "/run/systemd/system", units: "/etc/systemd/system", program: "systemctl"}
}

func (d systemd) runs() bool {
	info, err := os.Lstat(d.running)
	return err == nil && info.IsDir()
}

func (d systemd) do(ctx context.Context, args ...string) error {
	_, err := d.ask(ctx, args...)
	return err
}

func (d systemd) ask(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, systemctlTimeout)
	defer cancel()
	said := &boundedBuffer{most: maxPrintedBySSHD}
	cmd := exec.CommandContext(ctx, d.program, args...)
	cmd.Stdout, cmd.Stderr = said, said
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return said.String(), err
}

// sshUnit is the service of the machine's sshd: Debian calls it ssh, and others
// sshd. "" where there is none.
func (d systemd) sshUnit(ctx context.Context) string {
	for _, name := range []string{"ssh.service", "sshd.service"} {
		state, err := d.ask(ctx, "show", "--property=LoadState", "--value", name)
		if err == nil && strings.TrimSpace(state) == "loaded" {
			return name
		}
	}
	return ""
}

// unitName is that of the service that keeps the state current.
const unitName = "dtnoded-sshd.service"

// unitText is packaging/systemd/dtnoded-sshd.service, with the places put in.
func unitText(c Installation) string {
	above := filepath.Dir(string(DirOf(c.Server.Config)))
	return `[Unit]
Description=Keeps sshd's trusted devices and revocations current
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
ExecStart=` + strings.Join(c.syncCommand(), " ") + `
Restart=always
RestartSec=1
# It ends sessions and reads who has them, so it is root; it writes to two
# folders, and makes devicetrust in the first again where it is gone. /tmp is not
# its own: sshd says there who has which session (ExposeAuthInfo), and /dev is the
# machine's, for the word on a terminal.
ProtectSystem=strict
ReadWritePaths=` + above + ` ` + c.DataDir + `
ProtectHome=read-only
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
NoNewPrivileges=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
LockPersonality=yes
MemoryDenyWriteExecute=yes

[Install]
WantedBy=multi-user.target
`
}

// unit is the file of the service.
func (d systemd) unit() string { return filepath.Join(d.units, unitName) }

// service tells whether there is a side-car's service, and whether it is that of
// this sshd.
func (c Installation) service() (there, ours bool, err error) {
	there, err = checkMade(c.systemd.unit(), false)
	if !there || err != nil {
		return there, false, err
	}
	text, err := durable.Read(c.systemd.unit(), maxDropIn)
	return true, strings.Contains(string(text), "--sshd-config="+c.Server.Config+" "), err
}

// installService makes the service, and starts it.
func (d systemd) installService(ctx context.Context, c *changes, text string) error {
	path := d.unit()
	there, err := checkMade(path, false)
	if err != nil {
		return err
	}
	always := context.WithoutCancel(ctx)
	c.did("start what was before", func() error {
		err := d.do(always, "daemon-reload")
		if there {
			err = errors.Join(err, d.do(always, "start", unitName))
		}
		return err
	})
	if err := c.write(path, []byte(text)); err != nil {
		return err
	}
	if err := d.do(ctx, "daemon-reload"); err != nil {
		return err
	}
	c.did("stop "+unitName, func() error {
		if there {
			return d.do(always, "stop", unitName)
		}
		return d.do(always, "disable", "--now", unitName)
	})
	if err := d.do(ctx, "enable", unitName); err != nil {
		return err
	}
	return d.do(ctx, "restart", unitName)
}

// removeService ends the service, where there is one.
func (d systemd) removeService(ctx context.Context, c *changes) error {
	path := d.unit()
	if there, err := checkMade(path, false); !there || err != nil {
		return err
	}
	always := context.WithoutCancel(ctx)
	c.did("start "+unitName, func() error {
		return errors.Join(d.do(always, "daemon-reload"), d.do(always, "enable", "--now", unitName))
	})
	if err := d.do(ctx, "disable", "--now", unitName); err != nil {
		return err
	}
	if err := c.remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return d.do(ctx, "daemon-reload")
}
