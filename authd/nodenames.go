package authd

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/ca"
	"devicetrust/store"
)

// A host certificate cannot be taken back from those who only know the CA, so
// a name stays a node's for as long as a certificate with it may be shown,
// whatever the node calls itself by then. Nodes that are removed give their
// names free: whoever removes one says that it is gone.

// certified notes the names that a node's certificate will have.
func (n nodes) certified(tx *store.Tx, id string, info *dtv1.NodeInfo) error {
	until := store.Micros(n.now().Add(ca.NodeLife))
	for _, name := range lowered(info) {
		var own int64
		if strings.EqualFold(name, info.GetName()) {
			own = until
		}
		_, err := tx.Exec(`INSERT INTO node_names (node_id, name, own_until, valid_before) VALUES ($1, $2, $3, $4)
			ON CONFLICT (node_id, name) DO UPDATE SET valid_before = excluded.valid_before,
			own_until = CASE WHEN excluded.own_until > 0 THEN excluded.own_until ELSE node_names.own_until END`,
			id, name, own, until)
		if err != nil {
			return err
		}
	}
	return nil
}

// checkUncertified refuses a name that another node's certificate has, and a
// further name that is another node's own in one.
func (n nodes) checkUncertified(tx *store.Tx, id string, info *dtv1.NodeInfo) error {
	now := store.Micros(n.now())
	for _, name := range lowered(info) {
		var other string
		err := tx.QueryRow(`SELECT node_id FROM node_names WHERE name = $1 AND node_id <> $2 AND valid_before > $3 AND (own_until > $3 OR $4) LIMIT 1`,
			name, id, now, strings.EqualFold(name, info.GetName())).Scan(&other)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return fmt.Errorf("authd: %w", err)
		}
		return api.Refuse(connect.CodeAlreadyExists, "%q is certified for another node", name).
			WithHint("Choose another --nodename, wait until that certificate has expired (a day at most), or remove the node: dtctl rm node/%s", other)
	}
	return nil
}

func (n nodes) pruneNames(tx *store.Tx) error {
	_, err := tx.Exec(`DELETE FROM node_names WHERE valid_before <= $1`, store.Micros(n.now()))
	return err
}

// lowered are the names of a certificate as ca writes them.
func lowered(info *dtv1.NodeInfo) []string {
	names := principalsOf(info.GetName(), info.GetHostname(), info.GetAddresses())
	for i := range names {
		names[i] = strings.ToLower(names[i])
	}
	return unique(names)
}
