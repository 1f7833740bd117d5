package main

import (
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"devicetrust/cmd/internal/cli"
	"devicetrust/node/sshd"
)

// answerSshd answers sshd where it asks, before anything else is made ready: it
// waits for that at each login, twice.
func answerSshd(args []string) (status int, asked bool) {
	if len(args) < 3 || args[0] != "sshd" || args[1] != "principals" || !strings.HasPrefix(args[2], "--dir=") {
		return 0, false
	}
	// A process that lives for some milliseconds has nothing to gain from
	// collecting garbage, but where a state is huge.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(garbageFrom)
	return helper(time.Now, os.Stdout, os.Stderr).Run(args[2:]), true
}

// garbageFrom is how much memory the helper uses before it looks for garbage. It
// is no bound: that is what its input has (feed.MaxMessage).
const garbageFrom = 128 << 20

func helper(now func() time.Time, stdout, stderr io.Writer) sshd.Helper {
	return sshd.Helper{
		Now: now, Location: time.Local, Stdout: stdout, Stderr: stderr, Log: "/dev/log", PID: os.Getpid(),
	}
}

func principalsCommand(env *cli.Env) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "principals --dir=DIR LOGIN TYPE CERTIFICATE CA-TYPE CA-KEY CA-FINGERPRINT FINGERPRINT KEY-ID SERIAL",
		Short: "Tell sshd whether a certificate may log in",
		Long: "Tell sshd whether a certificate may log in, as its AuthorizedPrincipalsCommand: the options of the\n" +
			"session and the login, or nothing where it may not. It decides by the signed state in DIR, asks\n" +
			"nobody, and takes a second at most. Why somebody is refused is in the system's log (authpriv) and\n" +
			"on stderr; the status is 0 then too, and 1 where the state cannot be read.",
		Example: "  # in sshd_config\n" +
			"  AuthorizedPrincipalsCommand /usr/local/bin/dtnoded sshd principals --dir=/etc/ssh/devicetrust " + sshd.Tokens + "\n" +
			"  AuthorizedPrincipalsCommandUser nobody",
		Args: cobra.ExactArgs(len(strings.Fields(sshd.Tokens))),
	}
	c.Flags().StringVar(&dir, "dir", "", "folder with the signed state, the user CA's keys and node.json")
	if err := c.MarkFlagRequired("dir"); err != nil {
		c.Args = func(*cobra.Command, []string) error { return err }
	}
	c.RunE = func(_ *cobra.Command, args []string) error {
		if status := helper(env.Now, env.Stdout, env.Stderr).Run(append([]string{"--dir=" + dir}, args...)); status != 0 {
			return &cli.ExitError{Status: status}
		}
		return nil
	}
	return c
}
