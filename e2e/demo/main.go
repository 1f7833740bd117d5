// Demo plays the getting-started story with real processes, in a temporary
// directory on free loopback ports. Each command is shown as it is typed,
// before what it really prints; the first that differs from what it should do
// ends the demo with status 1.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"syscall"

	"devicetrust/e2e/stage"
)

const (
	password = "correct-horse-battery-staple"
	assetTag = "C00AA0AAAA0A"
	nodeName = "server-1"
)

func main() {
	bin := flag.String("bin", "bin", "folder of the built programs")
	keep := flag.Bool("keep", false, "leave the cluster running")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, *keep); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin string, keep bool) (err error) {
	bin, err = filepath.Abs(bin)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "dt-demo-")
	if err != nil {
		return err
	}
	s := &stage.Stage{Dir: dir, Bin: bin, Detach: keep}
	kept := false
	defer func() {
		if kept {
			return
		}
		if cerr := s.Close(); err == nil {
			err = cerr
		}
		if ctx.Err() != nil {
			err = errors.New("interrupted")
		} else if err != nil {
			showLogs(dir)
		}
		if rerr := os.RemoveAll(dir); err == nil {
			err = rerr
		}
	}()
	d := &demo{ctx: ctx, stage: s, out: os.Stdout}
	if err := d.setUp(); err != nil {
		return err
	}
	if err := d.play(); err != nil {
		return err
	}
	fmt.Println("\nEvery step did what it should.")
	if !keep {
		return nil
	}
	kept = true
	return d.handOver()
}

// setUp starts what the story needs and shows how.
func (d *demo) setUp() error {
	me, err := user.Current()
	if err != nil {
		return err
	}
	d.login = me.Username

	fmt.Fprintf(d.out, "$ cd %s\n", d.stage.Dir)
	d.say("A software TPM stands in for the laptop's chip.")
	tpm, err := d.stage.TPM(d.ctx, "laptop")
	if err != nil {
		return err
	}
	d.show("swtpm socket --tpm2 --server type=unixio,path=" + filepath.Base(tpm.Address()) + " … &")

	d.say("The control plane, on SQLite.")
	d.authd, err = d.stage.Authd(d.ctx, "authd")
	if err != nil {
		return err
	}
	d.show(d.authd.CommandLine() + " &")
	if d.pin, err = d.authd.Pin(d.ctx); err != nil {
		return err
	}

	d.say("A server joins it with a token that is good once.")
	node, err := d.stage.Noded(d.ctx, d.authd, nodeName)
	if err != nil {
		return err
	}
	d.show(node.CommandLine() + " &")

	dmi := filepath.Join(d.stage.Dir, "dmi")
	if err := stage.DMI(dmi, assetTag); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.stage.Dir, "password"), []byte(password+"\n"), 0o600); err != nil {
		return err
	}
	d.env = []variable{
		{"PATH", d.stage.Bin + ":" + os.Getenv("PATH")},
		{"DTCTL_DATA_DIR", d.authd.DataDir},
		{"DTSH_HOME", filepath.Join(d.stage.Dir, "dtsh")},
		{"DTSH_TPM", tpm.Address()},
		{"DTSH_DMI_DIR", dmi},
		{"DTSH_PROXY", d.authd.Addr},
		{"DTSH_USER", "myuser"},
	}
	d.say("dtctl administers over the socket in the data directory; dtsh finds the TPM,\nthe machine's tables and the cluster where these say.")
	for _, v := range d.env[1:] {
		d.show("export " + v.name + "=" + v.value)
	}
	return nil
}

func showLogs(dir string) {
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return
	}
	for _, name := range logs {
		if data, err := os.ReadFile(name); err == nil && len(data) > 0 {
			fmt.Fprintf(os.Stderr, "\n%s:\n%s", filepath.Base(name), data[max(0, len(data)-4000):])
		}
	}
}
