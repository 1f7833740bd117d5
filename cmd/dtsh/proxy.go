package main

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"devicetrust/api"
	"devicetrust/client"
)

// portOfSSH is what ssh(1) puts in place of %p where nobody named a port.
const portOfSSH = "22"

func (a *app) proxyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "proxy",
		Short:   "Carry other programs' connections to servers",
		Example: "  ssh -o 'ProxyCommand=dtsh proxy ssh %r@%h:%p' root@server-1",
	}
	c.AddCommand(a.proxySSHCommand())
	return c
}

func (a *app) proxySSHCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ssh [LOGIN@]NODE[:PORT]",
		Short: "Connect stdin and stdout to a server's SSH port, for ssh's ProxyCommand",
		Long: `Connect stdin and stdout to a server's SSH port. It is for ProxyCommand of
ssh(1), which speaks SSH through it and verifies the server itself. NODE is a
name or an ID that dtsh ls shows, or an address. Port 22, which ssh means where
no port was named, stands for the node's own port; any other is that port. LOGIN
is ssh's matter and is not looked at.`,
		Example: `  ssh -o 'ProxyCommand=dtsh proxy ssh %r@%h:%p' root@server-1
  dtsh proxy ssh server-1 < /dev/null`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			err := a.runProxySSH(c.Context(), args[0])
			if errors.Is(err, client.ErrNoReader) {
				return nil // ssh has gone
			}
			return err
		},
	}
}

func (a *app) runProxySSH(ctx context.Context, address string) error {
	host, port, err := splitProxied(address)
	if err != nil {
		return err
	}
	p, conn, err := a.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	// As dtsh config names them: NODE.CLUSTER is NODE too.
	target, err := resolveProxied(ctx, conn, strings.TrimSuffix(host, "."+p.Cluster), port)
	if err != nil {
		return err
	}
	tcp, err := target.Dial(ctx, a.options())
	if err != nil {
		return err
	}
	return client.Pipe(ctx, tcp, a.Stdin, a.Stdout)
}

// resolveProxied takes port 22 for the node's own. An address has none of its
// own.
func resolveProxied(ctx context.Context, conn *client.Conn, host, port string) (client.Target, error) {
	if _, err := netip.ParseAddr(host); err != nil && port == portOfSSH {
		port = ""
	}
	return conn.Resolve(ctx, host, port)
}

// splitProxied reads [LOGIN@]HOST[:PORT] as ssh(1) makes it of %r@%h:%p: an
// IPv6 address has no brackets there, so that the last colon is the port's.
// What is no host is refused by Resolve.
func splitProxied(address string) (host, port string, err error) {
	host = address[strings.LastIndex(address, "@")+1:]
	if i := strings.LastIndex(host, ":"); i >= 0 && !strings.HasSuffix(host, "]") {
		if isHost(host[:i]) {
			if port, err = parsePort(host[i+1:]); err != nil {
				return "", "", badProxied(address)
			}
			host = host[:i]
		}
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if !isHost(host) {
		return "", "", badProxied(address)
	}
	return host, cmp.Or(port, portOfSSH), nil
}

// isHost: only an IPv6 address has colons.
func isHost(s string) bool {
	if !strings.Contains(s, ":") {
		return s != ""
	}
	_, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	return err == nil
}

func badProxied(address string) error {
	return api.Refuse(connect.CodeInvalidArgument, "%.256q does not name a node: want [LOGIN@]NODE[:PORT]", address)
}
