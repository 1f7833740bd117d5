package authd

import (
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
)

// nodes owns the tables nodes and join_tokens.
type nodes struct {
	now func() time.Time
}

// joinToken is a token as it is given out; only its hash is stored.
type joinToken struct {
	secret  string
	name    string
	expires time.Time
	labels  map[string]string
}

// addToken makes a join token for one node.
func (n nodes) addToken(tx *store.Tx, ttl time.Duration, labels map[string]string) (joinToken, error) {
	var raw [32]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return joinToken{}, fmt.Errorf("authd: %w", err)
	}
	t := joinToken{
		secret:  hex.EncodeToString(raw[:]), // never begins with a dash, as a flag does
		name:    uuid.NewString(),
		expires: n.now().Add(ttl),
		labels:  labels,
	}
	doc, err := json.Marshal(labels)
	if err != nil {
		return joinToken{}, fmt.Errorf("authd: %w", err)
	}
	hash := sha256.Sum256([]byte(t.secret))
	_, err = tx.Exec(`INSERT INTO join_tokens (name, hash, labels, expires_at) VALUES ($1, $2, $3, $4)`,
		t.name, hash[:], string(doc), store.Micros(t.expires))
	return t, err
}

// hasToken tells whether there is such a token, expired or not.
func (n nodes) hasToken(tx *store.Tx, secret string) (bool, error) {
	hash := sha256.Sum256([]byte(secret))
	var found int
	if err := tx.QueryRow(`SELECT count(*) FROM join_tokens WHERE hash = $1`, hash[:]).Scan(&found); err != nil {
		return false, fmt.Errorf("authd: %w", err)
	}
	return found > 0, nil
}

// takeToken removes the token and then says whether it was good: whatever
// comes of the join, it is spent.
func (n nodes) takeToken(tx *store.Tx, secret string) (joinToken, error) {
	hash := sha256.Sum256([]byte(secret))
	var t joinToken
	var labels string
	var expires int64
	err := tx.QueryRow(`DELETE FROM join_tokens WHERE hash = $1 RETURNING name, labels, expires_at`, hash[:]).
		Scan(&t.name, &labels, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return t, nil // the zero name: no such token
	}
	if err != nil {
		return t, fmt.Errorf("authd: %w", err)
	}
	t.expires = store.Time(expires)
	if err := json.Unmarshal([]byte(labels), &t.labels); err != nil {
		return t, fmt.Errorf("authd: join token %s: %w", t.name, err)
	}
	return t, nil
}

// check says whether a taken token lets a node join.
func (t joinToken) check(now time.Time) error {
	const hint = "Make a new one: dtctl tokens add --type=node"
	if t.name == "" {
		return api.Refuse(connect.CodePermissionDenied, "the join token is unknown or was used already").WithHint(hint)
	}
	if !now.Before(t.expires) {
		return api.Refuse(connect.CodePermissionDenied, "the join token has expired").WithHint(hint)
	}
	return nil
}

func (n nodes) listTokens(tx *store.Tx) ([]resource.Resource, error) {
	rows, err := tx.Query(`SELECT name, labels, expires_at FROM join_tokens WHERE expires_at > $1 ORDER BY name`, store.Micros(n.now()))
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	var out []resource.Resource
	for rows.Next() {
		var name, labels string
		var expires int64
		if err := rows.Scan(&name, &labels, &expires); err != nil {
			return nil, fmt.Errorf("authd: %w", err)
		}
		t := &resource.Token{Header: resource.NewHeader(resource.KindToken, name)}
		t.Metadata.Expires = store.Time(expires)
		t.Spec.Roles = []string{"Node"}
		if err := json.Unmarshal([]byte(labels), &t.Spec.Labels); err != nil {
			return nil, fmt.Errorf("authd: join token %s: %w", name, err)
		}
		out = append(out, t)
	}
	return out, rows.Err()
}

// findToken gives the name of the token that is called so, or that is the
// token itself: who has only what "tokens add" printed has no name.
func (n nodes) findToken(tx *store.Tx, token string) (name string, err error) {
	hash := sha256.Sum256([]byte(token))
	err = tx.QueryRow(`SELECT name FROM join_tokens WHERE name = $1 OR hash = $2`, token, hash[:]).Scan(&name)
	if errors.Is(err, sql.ErrNoRows) {
		return "", api.Refuse(connect.CodeNotFound, "there is no such token").WithHint("dtctl tokens ls shows those that are good")
	}
	return name, err
}

func (n nodes) removeToken(tx *store.Tx, name string) error {
	_, err := tx.Exec(`DELETE FROM join_tokens WHERE name = $1`, name)
	return err
}

func (n nodes) prune(tx *store.Tx) error {
	if _, err := tx.Exec(`DELETE FROM join_tokens WHERE expires_at <= $1`, store.Micros(n.now())); err != nil {
		return err
	}
	return n.pruneNames(tx)
}

// document is a node as it describes itself; fixed labels stand over its own.
func document(id string, info *dtv1.NodeInfo, fixed map[string]string) (string, error) {
	doc := &resource.Node{Header: resource.NewHeader(resource.KindNode, id)}
	doc.Metadata.Labels = mergeLabels(info.GetLabels(), fixed)
	doc.Spec = resource.NodeSpec{
		Hostname: info.GetName(), Addr: info.GetAddresses()[0], PublicAddrs: info.GetAddresses()[1:], Version: info.GetVersion(),
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return "", fmt.Errorf("authd: %w", err)
	}
	return string(text), nil
}

// put stores a node.
func (n nodes) put(tx *store.Tx, id string, info *dtv1.NodeInfo, fixed map[string]string) error {
	now := n.now()
	text, err := document(id, info, fixed)
	if err != nil {
		return err
	}
	fixedText, err := json.Marshal(fixed)
	if err != nil {
		return fmt.Errorf("authd: %w", err)
	}
	_, err = tx.Exec(`INSERT INTO nodes (id, name, document, fixed_labels, last_seen_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, document = excluded.document, last_seen_at = excluded.last_seen_at`,
		id, info.GetName(), text, string(fixedText), store.Micros(now))
	tx.Changed() // the node is told what the cluster knows of it
	return err
}

// get finds a node by ID; sql.ErrNoRows is a refusal.
func (n nodes) get(tx *store.Tx, id string) (*resource.Node, error) {
	return n.find(tx, `id = $1`, id)
}

// lookup finds a node by ID or by name.
func (n nodes) lookup(tx *store.Tx, ref string) (*resource.Node, error) {
	return n.find(tx, `id = $1 OR name = $1`, ref)
}

func (n nodes) find(tx *store.Tx, where, arg string) (*resource.Node, error) {
	node, err := scanNode(tx.QueryRow(`SELECT `+nodeColumns+` FROM nodes WHERE `+where, arg).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, noNode(arg)
	}
	return node, err
}

func noNode(ref string) error {
	return api.Refuse(connect.CodeNotFound, "node %q not found", ref).WithHint("dtctl nodes ls shows the nodes")
}

// documents are those of all nodes, by ID.
func (n nodes) documents(tx *store.Tx) (map[string]string, error) {
	rows, err := tx.Query(`SELECT id, document FROM nodes`)
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	all := map[string]string{}
	for rows.Next() {
		var id, doc string
		if err := rows.Scan(&id, &doc); err != nil {
			return nil, fmt.Errorf("authd: %w", err)
		}
		all[id] = doc
	}
	return all, rows.Err()
}

func decodeNode(doc string, seen int64) (*resource.Node, error) {
	out := &resource.Node{}
	if err := json.Unmarshal([]byte(doc), out); err != nil {
		return nil, fmt.Errorf("authd: a stored node: %w", err)
	}
	out.Spec.LastHeartbeat = store.Time(seen)
	return out, nil
}

func (n nodes) fixedLabels(tx *store.Tx, id string) (map[string]string, error) {
	var doc string
	if err := tx.QueryRow(`SELECT fixed_labels FROM nodes WHERE id = $1`, id).Scan(&doc); err != nil {
		return nil, fmt.Errorf("authd: %w", err)
	}
	var out map[string]string
	if err := json.Unmarshal([]byte(doc), &out); err != nil {
		return nil, fmt.Errorf("authd: labels of node %s: %w", id, err)
	}
	return out, nil
}

func (n nodes) list(tx *store.Tx) ([]*resource.Node, error) {
	rows, err := tx.Query(`SELECT ` + nodeColumns + ` FROM nodes ORDER BY name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	var out []*resource.Node
	for rows.Next() {
		node, err := scanNode(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, node)
	}
	return out, rows.Err()
}

func (n nodes) count(tx *store.Tx) (c int64, err error) {
	if err := tx.QueryRow(`SELECT count(*) FROM nodes`).Scan(&c); err != nil {
		return 0, fmt.Errorf("authd: %w", err)
	}
	return c, nil
}

func (n nodes) remove(tx *store.Tx, id string) error {
	tx.Changed()
	_, err := tx.Exec(`DELETE FROM nodes WHERE id = $1`, id)
	return err
}

// checkFree refuses names that another node goes by, or may still prove: clients verify a server
// by its name, in whatever case (ca writes principals in lower case), and
// administrators call it by its name or its ID. Addresses may be shared: by
// several nodes on one machine, or behind one gateway.
func (n nodes) checkFree(tx *store.Tx, id string, info *dtv1.NodeInfo) error {
	all, err := n.list(tx)
	if err != nil {
		return err
	}
	if err := n.checkUncertified(tx, id, info); err != nil {
		return err
	}
	mine := map[string]bool{}
	for _, p := range lowered(info) {
		mine[p] = true
	}
	for _, other := range all {
		if other.Metadata.Name == id {
			continue
		}
		if strings.EqualFold(other.Spec.Hostname, info.GetName()) {
			return api.Refuse(connect.CodeAlreadyExists, "another node is named %q", other.Spec.Hostname).
				WithHint("Choose another --nodename, or remove the old node: dtctl rm node/%s", other.Metadata.Name)
		}
		for _, taken := range []string{other.Spec.Hostname, other.Metadata.Name} {
			if mine[strings.ToLower(taken)] {
				return api.Refuse(connect.CodeAlreadyExists, "%q is the name of another node", taken)
			}
		}
	}
	return nil
}

// checkInfo refuses what a node may not claim of itself.
func checkInfo(info *dtv1.NodeInfo) error {
	return invalid(resource.NodeClaims{
		Name: info.GetName(), Hostname: info.GetHostname(), Addresses: info.GetAddresses(),
		Labels: info.GetLabels(), Version: info.GetVersion(), Enforcer: info.GetEnforcer(),
	}.Check())
}

func invalid(err error) error {
	if err == nil {
		return nil
	}
	return api.Refuse(connect.CodeInvalidArgument, "%v", err)
}

func mergeLabels(own, fixed map[string]string) map[string]string {
	out := make(map[string]string, len(own)+len(fixed))
	for k, v := range own {
		out[k] = v
	}
	for k, v := range fixed {
		out[k] = v
	}
	return out
}

// principalsOf are the names in a node's host certificate.
func principalsOf(name, hostname string, addresses []string) []string {
	out := []string{name, hostname}
	for _, a := range addresses {
		if host, _, err := net.SplitHostPort(a); err == nil {
			out = append(out, host)
		}
	}
	return unique(out)
}

func policyNode(n *resource.Node) policy.Node {
	return policy.Node{ID: n.Metadata.Name, Name: n.Spec.Hostname, Labels: n.Metadata.Labels}
}
