package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/resource"
)

// Nodes lists the nodes that the person may see and that have all the labels,
// by name.
func (c *Conn) Nodes(ctx context.Context, labels map[string]string) ([]resource.Node, error) {
	resp, err := c.Admin.ListNodes(ctx, connect.NewRequest(&dtv1.ListNodesRequest{}))
	if err != nil {
		return nil, err
	}
	nodes := []resource.Node{}
	for _, data := range resp.Msg.GetNodes() {
		// Not parsed strictly: a newer server may tell more of its nodes.
		var n resource.Node
		if err := json.Unmarshal(data, &n); err != nil {
			return nil, fmt.Errorf("%s gave an unusable list of nodes: %w", c.Proxy, err)
		}
		if hasLabels(n, labels) {
			nodes = append(nodes, n)
		}
	}
	slices.SortFunc(nodes, func(a, b resource.Node) int {
		return strings.Compare(a.Spec.Hostname+"\x00"+a.Metadata.Name, b.Spec.Hostname+"\x00"+b.Metadata.Name)
	})
	return nodes, nil
}

func hasLabels(n resource.Node, want map[string]string) bool {
	for k, v := range want {
		if got, ok := n.Metadata.Labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// ParseLabels reads LABEL=VALUE words.
func ParseLabels(words []string) (map[string]string, error) {
	labels := map[string]string{}
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("%q is not of the form LABEL=VALUE", w)
		}
		labels[k] = v
	}
	return labels, nil
}

// LabelText is a node's labels on one line, sorted.
func LabelText(labels map[string]string) string {
	words := make([]string, 0, len(labels))
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		words = append(words, k+"="+labels[k])
	}
	return strings.Join(words, ",")
}

// Target is where an SSH connection goes.
type Target struct {
	// Shown is the host and port as people know them: for messages.
	Shown string
	// Addresses are HOST:PORT to try, in this order.
	Addresses []string
	// Name must be in the host certificate.
	Name string
	// Listed is of a node of the cluster's; others are where the person said.
	Listed bool
}

// Resolve finds the node that host names: its name, its ID, or HOST:PORT,
// which is taken as it is without asking the cluster. port, where not empty,
// is used in place of the node's own; with it, a host that is no node is
// taken as it is, and for an IP address the cluster is not asked either.
func (c *Conn) Resolve(ctx context.Context, host, port string) (Target, error) {
	if t, ok, err := literal(host, port); ok || err != nil {
		return t, err
	}
	nodes, err := c.Nodes(ctx, nil)
	if r, ok := errors.AsType[*api.Refusal](err); ok && r.Code == connect.CodeUnavailable {
		err = r.WithHint("The cluster cannot be asked where %q is: name the node by HOST:PORT.", host)
	}
	if err != nil {
		return Target{}, err
	}
	nodes = slices.DeleteFunc(nodes, func(n resource.Node) bool {
		return !strings.EqualFold(n.Spec.Hostname, host) && n.Metadata.Name != host
	})
	switch {
	case len(nodes) == 1:
		return nodeTarget(nodes[0], port)
	case len(nodes) > 1:
		return Target{}, ambiguous(host, nodes)
	case port != "" && validHost(host):
		return direct(host, port), nil
	}
	return Target{}, api.Refuse(connect.CodeNotFound, "no node %.128q is known to you", host).
		WithHint("List the nodes with: dtsh ls")
}

// literal takes HOST:PORT, and an IP address with a port beside it.
func literal(host, port string) (Target, bool, error) {
	if _, err := netip.ParseAddr(host); err == nil && port != "" {
		return direct(host, port), true, nil
	}
	h, p, err := net.SplitHostPort(host)
	if err != nil {
		return Target{}, false, nil //nolint:nilerr // a name without a port is to be looked up
	}
	if port != "" {
		p = port
	}
	if !validHost(h) || !validPort(p) {
		return Target{}, false, api.Refuse(connect.CodeInvalidArgument, "%.256q is not a node's name nor HOST:PORT", host)
	}
	return direct(h, p), true, nil
}

func direct(host, port string) Target {
	address := net.JoinHostPort(host, port)
	return Target{Shown: address, Addresses: []string{address}, Name: host}
}

// TargetOf is where a node of the list is. port, where not empty, is used in
// place of the node's own.
func TargetOf(n resource.Node, port string) (Target, error) { return nodeTarget(n, port) }

// nodeTarget believes the cluster where the node is, and only the host
// certificate that it is the node: the address may be anybody's by now.
func nodeTarget(n resource.Node, port string) (Target, error) {
	t := Target{Name: n.Spec.Hostname, Listed: true}
	for _, address := range append([]string{n.Spec.Addr}, n.Spec.PublicAddrs...) {
		h, p, err := net.SplitHostPort(address)
		if err != nil || !validHost(h) || !validPort(p) {
			continue
		}
		if port != "" {
			p = port
		}
		if a := net.JoinHostPort(h, p); !slices.Contains(t.Addresses, a) {
			t.Addresses = append(t.Addresses, a)
		}
	}
	if len(t.Addresses) == 0 {
		return Target{}, api.Refuse(connect.CodeFailedPrecondition, "node %q has told no address that can be reached", n.Spec.Hostname).
			WithHint("Start dtnoded there with --public-addr=HOST:PORT.")
	}
	_, p, _ := net.SplitHostPort(t.Addresses[0])
	t.Shown = net.JoinHostPort(n.Spec.Hostname, p)
	return t, nil
}

func ambiguous(host string, nodes []resource.Node) error {
	var addresses []string
	for _, n := range nodes {
		addresses = append(addresses, n.Spec.Addr)
	}
	return api.Refuse(connect.CodeFailedPrecondition, "%d nodes are called %q: %s", len(nodes), host, strings.Join(addresses, ", ")).
		WithHint("Name one by its address: dtsh ssh LOGIN@HOST:PORT")
}
