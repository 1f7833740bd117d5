package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"devicetrust/api"
	"devicetrust/client"
	"devicetrust/client/agent"
	"devicetrust/cmd/internal/cli"
)

// agentFlags are how the agent is run.
type agentFlags struct {
	socket                string
	background, kill, csh bool
	detached              bool // what --background starts
}

func (a *app) agentCommand() *cobra.Command {
	var f agentFlags
	c := &cobra.Command{
		Use:   "agent",
		Short: "Serve the logins' keys to ssh, git and others, as ssh-agent does",
		Long: `Serve the keys and certificates of your logins to ssh, git and whatever else
speaks to an ssh-agent, and renew logins of this device before they expire. Keys
that ssh-add brings are served too, from memory.

A login's key signs authentications of ssh and ssh-keygen -Y sign, and nothing
else. Where the agent is forwarded to a server, it signs only if your roles
permit agent forwarding, and only at servers of the cluster.

"dtsh login" starts it in the background where the login's key is in the TPM
(--no-agent or DTSH_AGENT=off keeps it from that). An agent in the background
ends when nobody is logged in any more, or an hour after the last login expired.
Where one is running, this prints its socket and does nothing else.`,
		Example: `  eval "$(dtsh agent --background)"
  dtsh agent                  # in the foreground, until interrupted
  dtsh agent --kill`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(c *cobra.Command, _ []string) error { return a.runAgent(c.Context(), f) },
	}
	flags := c.Flags()
	flags.StringVar(&f.socket, "socket", "", "listen on this socket (default: agent.sock in DTSH_HOME; on Windows a named pipe)")
	flags.BoolVar(&f.background, "background", false, "start the agent and return when it serves")
	flags.BoolVar(&f.kill, "kill", false, "end the agent that serves the socket")
	flags.BoolVarP(&f.csh, "csh", "c", false, "print commands for a C shell")
	flags.BoolVar(&f.detached, "detached", false, "be the agent that --background starts")
	_ = flags.MarkHidden("detached")
	c.MarkFlagsMutuallyExclusive("background", "kill", "detached")
	return c
}

func (a *app) runAgent(ctx context.Context, f agentFlags) error {
	home, err := a.home()
	if err != nil {
		return err
	}
	path := a.agentSocket(home)
	if f.socket != "" {
		if path, err = absoluteSocket(f.socket); err != nil {
			return err
		}
	}
	switch {
	case f.kill:
		if err := agent.Stop(ctx, path); err != nil {
			return err
		}
		return a.printVariables("", 0, f.csh)
	case f.background:
		pid, err := a.startAgent(ctx, home, path)
		if err != nil {
			return err
		}
		return a.printVariables(path, pid, f.csh)
	}
	hideMemory()
	l, err := inheritedSocket(a.Getenv)
	switch {
	case err != nil:
	case l != nil:
		path = l.Addr().String()
	default:
		l, err = agent.Listen(path)
	}
	if errors.Is(err, agent.ErrRunning) && f.socket == "" {
		// dtsh login has started it: whoever evaluates what this prints has what
		// they want.
		fmt.Fprintln(a.Stderr, "An agent is running already. Stop it with: dtsh agent --kill")
		return a.printVariables(path, 0, f.csh)
	}
	if err != nil {
		return err
	}
	if f.detached {
		// Whoever waits for this reads no more than the line.
		if _, err := fmt.Fprintln(a.Stdout, agentReady); err != nil {
			_ = l.Close()
			return err
		}
		letGo()
	} else if err := a.printVariables(path, 0, f.csh); err != nil {
		_ = l.Close()
		return err
	}
	return a.serveAgent(ctx, home, path, l, f.detached)
}

// agentSocket is where the agent of home is unless another place is named.
func (a *app) agentSocket(home *client.Home) string {
	return agent.SocketPath(home.Dir(), a.Getenv("XDG_RUNTIME_DIR"), os.TempDir())
}

// pipePrefix is of the named pipes of Windows.
const pipePrefix = `\\.\pipe\`

func absoluteSocket(path string) (string, error) {
	if strings.HasPrefix(path, pipePrefix) {
		return path, nil
	}
	return filepath.Abs(path)
}

// How often the agent looks whether somebody is logged in, and what is to be
// renewed.
const agentInterval = 10 * time.Second

// serveAgent serves l, at path, until ctx ends, somebody stops it or, in the
// background, nobody is logged in any more, or the home is gone.
func (a *app) serveAgent(ctx context.Context, home *client.Home, path string, l net.Listener, detached bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	log := a.Log()
	if detached {
		log = slog.New(slog.DiscardHandler) // on a full disk: the keys are of use all the same
		if file, err := home.AgentLog(); err == nil {
			defer file.Close()
			log = slog.New(slog.NewTextHandler(file, nil))
		}
		home.Chip.Waiting = nil
	}
	home.Chip.Keep = true
	keys := agent.New(agent.Config{Source: home.AgentSource(log), Now: a.Now, Log: log})
	renewals := client.NewRenewals(home, a.machine(home), client.Options{Now: a.Now, Log: log})
	var both sync.WaitGroup
	defer both.Wait()
	defer cancel()
	both.Go(func() { every(ctx, agentInterval, func() { renewals.Step(ctx) }) })
	u := &upkeep{home: home, keys: keys, now: a.Now, detached: detached, path: path}
	if !strings.HasPrefix(path, pipePrefix) {
		u.socket, _ = os.Lstat(path) // which tells where it has gone already
	}
	both.Go(func() {
		every(ctx, agentInterval, func() {
			if u.step() {
				cancel()
			}
		})
	})
	err := keys.Serve(ctx, l)
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// agentLinger is how long an agent in the background that has no keys of ssh-add
// outlives the last login that was good.
const agentLinger = time.Hour

// upkeep is what an agent looks at every agentInterval.
type upkeep struct {
	home *client.Home
	keys *agent.Agent
	now  func() time.Time
	// detached: it ends by itself.
	detached bool
	path     string
	socket   fs.FileInfo // at path when it began; nil is a pipe
	// had tells whether somebody was logged in, good when a login was good last.
	had  bool
	good time.Time
}

// step tells whether the agent is to end.
func (u *upkeep) step() (end bool) {
	u.keys.Expire()
	if u.detached && (gone(u.home.Dir()) || u.displaced()) {
		return true
	}
	logins, err := u.home.Logins()
	if err != nil {
		return false // a disk that does not answer is no logout
	}
	now, had := u.now(), u.had
	u.had = len(logins) > 0
	if slices.ContainsFunc(logins, func(p *client.Profile) bool {
		c, err := p.Credentials()
		return err == nil && now.Before(c.ValidUntil())
	}) {
		u.good = now
	}
	if had && !u.had {
		u.keys.Empty()
		return u.detached
	}
	return u.detached && !u.good.IsZero() && now.Sub(u.good) > agentLinger && u.keys.Added() == 0
}

// displaced tells whether the socket is not there any more, or another agent's.
func (u *upkeep) displaced() bool {
	if strings.HasPrefix(u.path, pipePrefix) {
		return false
	}
	now, err := os.Lstat(u.path)
	return errors.Is(err, fs.ErrNotExist) || err == nil && (u.socket == nil || !os.SameFile(now, u.socket))
}

func gone(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// every calls f now and then again, until ctx ends.
func every(ctx context.Context, interval time.Duration, f func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		f()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// printVariables prints what a shell evaluates, as ssh-agent does. An empty path
// is for an agent that has ended, and no pid for one that was there before.
func (a *app) printVariables(path string, pid int, csh bool) error {
	var b strings.Builder
	set := func(name, value string) {
		if csh {
			fmt.Fprintf(&b, "setenv %s %s;\n", name, quoted(value))
		} else {
			fmt.Fprintf(&b, "%s=%s; export %s;\n", name, quoted(value), name)
		}
	}
	unset := "unset"
	if csh {
		unset = "unsetenv"
	}
	switch {
	case path == "":
		fmt.Fprintf(&b, "%s SSH_AUTH_SOCK;\n%s SSH_AGENT_PID;\necho Agent stopped;\n", unset, unset)
	case pid == 0:
		set("SSH_AUTH_SOCK", path)
	default:
		set("SSH_AUTH_SOCK", path)
		set("SSH_AGENT_PID", strconv.Itoa(pid))
		fmt.Fprintf(&b, "echo Agent pid %d;\n", pid)
	}
	_, err := io.WriteString(a.Stdout, b.String())
	return err
}

// quoted is s as one word of a shell.
func quoted(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:,@%") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// agentReady is what an agent in the background says when its socket serves.
const agentReady = "ready"

// agentStart bounds the time until then.
const agentStart = 10 * time.Second

// offerAgent starts the home's agent in the background where none runs and the
// person has not ruled it out. What was asked for goes on without.
func (a *app) offerAgent(ctx context.Context, home *client.Home) {
	if a.noAgent || a.Getenv("DTSH_AGENT") == "off" {
		return
	}
	if _, err := a.startAgent(ctx, home, a.agentSocket(home)); err != nil {
		message, hint := cli.Explain(err)
		fmt.Fprintf(a.Stderr, "WARNING: programs other than dtsh cannot use the login's key: %s\n", cli.Safe(message))
		if hint != "" {
			fmt.Fprintln(a.Stderr, cli.Safe(hint))
		}
	}
}

// startAgent starts an agent in the background and returns when it serves. pid is
// 0 where one was running.
func (a *app) startAgent(ctx context.Context, home *client.Home, path string) (pid int, err error) {
	if agent.Running(ctx, path) {
		return 0, nil
	}
	self, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("cannot start the agent: %w", err)
	}
	cmd := exec.Command(self, "agent", "--detached", "--socket="+path) //nolint:noctx // it outlives this program
	cmd.Dir = string(filepath.Separator)
	cmd.Env = append(os.Environ(), "DTSH_HOME="+home.Dir())
	for _, name := range []string{"DTSH_TPM", "DTSH_TPM_EVENT_LOG", "DTSH_DMI_DIR"} {
		if value := a.Getenv(name); value != "" {
			cmd.Env = append(cmd.Env, name+"="+absoluteDevice(value))
		}
	}
	detach(cmd)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, fmt.Errorf("cannot start the agent: %w", err)
	}
	errs, err := cmd.StderrPipe()
	if err != nil {
		return 0, fmt.Errorf("cannot start the agent: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("cannot start the agent: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, agentStart)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = out.Close(); _ = errs.Close() })()
	line, _ := bufio.NewReader(io.LimitReader(out, 64)).ReadString('\n')
	if strings.TrimSpace(line) == agentReady {
		pid := cmd.Process.Pid
		return pid, cmd.Process.Release()
	}
	// It has ended, or does not begin in time.
	text, _ := io.ReadAll(io.LimitReader(errs, 4096))
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	// Two that start at once: the other one serves.
	if agent.Running(ctx, path) {
		return 0, nil
	}
	message, hint := complaint(string(text))
	return 0, api.Refuse(connect.CodeUnavailable, "the agent did not start: %s", cli.Safe(message)).WithHint("%s", cli.Safe(hint))
}

// complaint reads what a dtsh that failed said: an error, and what to do.
func complaint(stderr string) (message, hint string) {
	message, hint, _ = strings.Cut(strings.TrimSpace(stderr), "\n")
	hint, _, _ = strings.Cut(hint, "\n")
	message = cmp.Or(strings.TrimPrefix(message, "ERROR: "), "it gave no reason")
	return message, cmp.Or(hint, "See why with: dtsh agent --debug")
}

// absoluteDevice is a variable's path as it is from another folder.
func absoluteDevice(value string) string {
	kind, path, ok := strings.Cut(value, ":")
	switch {
	case value == "off" || ok && kind != "unix":
		return value
	case ok:
		kind += ":"
	default:
		kind, path = "", value
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return value
	}
	return kind + abs
}

// inheritedSocket is the one that systemd has opened for us (sd_listen_fds(3));
// nil where it has not.
func inheritedSocket(getenv func(string) string) (net.Listener, error) {
	if getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil //nolint:nilnil // said above
	}
	if n := getenv("LISTEN_FDS"); n != "1" {
		return nil, api.Refuse(connect.CodeInvalidArgument, "%.16q sockets were handed over, want 1", n)
	}
	const first = 3 // SD_LISTEN_FDS_START
	f := os.NewFile(first, "socket")
	defer f.Close()
	return agent.Inherited(f)
}
