package main

import (
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"devicetrust/api/dtv1"
	"devicetrust/cmd/internal/cli"
)

func (a *app) explain() *cobra.Command {
	req := &dtv1.ExplainRequest{}
	c := &cobra.Command{
		Use:   "explain --user=USER --login=LOGIN --node=NODE",
		Short: "Say whether somebody may reach a server, and why",
		Long: `Ask the policy in force whether a user may reach a node, and print every rule
that took part and what would change the answer.

Without --device, as for a login on no trusted device; with it, as for one on
that device, which proves what it last proved, by a key in its TPM where it has
one. With --certificate, what the node makes of exactly that certificate: one that
it refuses is denied, and why; --from is where the connection comes from. --forward
and --listen ask about a forwarding (ssh -L, ssh -R) instead of a session.

The last lines say by which state of the cluster the node decides, as it last
told: while it has not heard of a change, it decides without it.
The exit status is 0 whether access is allowed or denied.`,
		Example: `  dtctl explain --user=alice --login=root --node=web-1
  dtctl explain --user=alice --login=root --node=web-1 --device=C00AA0AAAA0A
  dtctl explain --login=root --node=web-1 --certificate=alice-cert.pub
  dtctl explain --login=root --node=web-1 --certificate=alice-cert.pub --from=192.0.2.7
  dtctl explain --user=alice --login=root --node=web-1 --forward=db1:5432`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&req.User, "user", "", "name of the user")
	c.Flags().StringVar(&req.Login, "login", "", "account on the server")
	c.Flags().StringVar(&req.Node, "node", "", "name or ID of the node")
	c.Flags().StringVar(&req.Device, "device", "", "ID or asset tag of the device that the login is on")
	certificate := c.Flags().String("certificate", "", "file with an SSH certificate, as dtsh status shows it")
	c.Flags().StringVar(&req.SourceAddress, "from", "", "IP address that the connection with the certificate comes from")
	forward := c.Flags().String("forward", "", "HOST:PORT or socket path to be reached from the node")
	listen := c.Flags().String("listen", "", "[HOST:]PORT or socket path to be listened at on the node")
	require(c, "login", "node")
	c.MarkFlagsOneRequired("user", "certificate")
	c.MarkFlagsMutuallyExclusive("device", "certificate")
	c.MarkFlagsMutuallyExclusive("from", "user")
	c.MarkFlagsMutuallyExclusive("forward", "listen")
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if *certificate != "" {
			if err := a.takeCertificate(req, *certificate); err != nil {
				return err
			}
		}
		var err error
		if req.Forward, err = parseForward(*forward, *listen); err != nil {
			return err
		}
		services, err := a.services()
		if err != nil {
			return err
		}
		resp, err := services.Admin.Explain(cmd.Context(), connect.NewRequest(req))
		if err != nil {
			return err
		}
		return a.printExplanation(*format, req, resp.Msg)
	}
	return c
}

// takeCertificate reads a certificate in the form of OpenSSH's
// ID-cert.pub. Nothing of it is believed here: the server verifies it.
func (a *app) takeCertificate(req *dtv1.ExplainRequest, name string) error {
	text, err := a.readFile(name)
	if err != nil {
		return err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return cannot("read", name, errors.New("no SSH certificate in it"))
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return cannot("use", name, fmt.Errorf("want a certificate, got a %s key", key.Type()))
	}
	if req.User != "" && req.User != cert.KeyId {
		return cannot("use", name, fmt.Errorf("want a certificate of %q, got one of %q", req.User, cert.KeyId))
	}
	req.User, req.Certificate = cert.KeyId, cert.Marshal()
	return nil
}

func (a *app) printExplanation(format cli.Format, req *dtv1.ExplainRequest, e *dtv1.ExplainResponse) error {
	if format != cli.Text {
		return cli.Write(a.Stdout, format, explanation(e))
	}
	word := "DENY"
	if e.GetAllowed() {
		word = "ALLOW"
	}
	if err := a.say("%s %s as %s on %s: %s", word, req.GetUser(), req.GetLogin(), req.GetNode(), e.GetReason()); err != nil {
		return err
	}
	if len(e.GetRules()) > 0 {
		rows := make([][]string, 0, len(e.GetRules()))
		for _, r := range e.GetRules() {
			rows = append(rows, []string{r.GetEffect(), r.GetSource(), r.GetDetail()})
		}
		if err := a.say(""); err != nil {
			return err
		}
		if err := cli.Table(a.Stdout, []string{"Effect", "Rule", "Detail"}, rows); err != nil {
			return err
		}
	}
	var lines []string
	if len(e.GetChanges()) > 0 {
		lines = append(lines, "", "What would change it:")
	}
	for _, change := range e.GetChanges() {
		lines = append(lines, "  "+cli.Safe(change))
	}
	if e.GetState() != nil {
		lines = append(append(lines, ""), a.stateLines(req.GetNode(), e.GetState())...)
	}
	if len(lines) == 0 {
		return nil
	}
	return a.say("%s", strings.Join(lines, "\n"))
}

type explanationRule struct {
	Effect string `json:"effect"`
	Source string `json:"source"`
	Detail string `json:"detail"`
}

// explanation is e as JSON, with arrays where there is nothing.
func explanation(e *dtv1.ExplainResponse) any {
	out := struct {
		Allowed bool              `json:"allowed"`
		Reason  string            `json:"reason"`
		Rules   []explanationRule `json:"rules"`
		Changes []string          `json:"changes"`
		State   *explanationState `json:"state,omitempty"`
	}{e.GetAllowed(), e.GetReason(), []explanationRule{}, append([]string{}, e.GetChanges()...), explainedState(e.GetState())}
	for _, r := range e.GetRules() {
		out.Rules = append(out.Rules, explanationRule{r.GetEffect(), r.GetSource(), r.GetDetail()})
	}
	return out
}
