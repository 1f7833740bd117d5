package login

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/resource"
	"devicetrust/store"
)

// CreateUser adds u, with a password where one is given. A name that exists
// (CodeAlreadyExists) and a document that is not in order
// (CodeInvalidArgument) are refused.
func (s *Service) CreateUser(ctx context.Context, actor string, u resource.User, password *Secret) error {
	u, err := checkUser(u)
	if err != nil {
		return err
	}
	hash := ""
	if password != nil {
		if hash, err = s.hasher.create(ctx, *password); err != nil {
			return err
		}
	}
	return s.db.Write(ctx, func(tx *store.Tx) error {
		if err := s.insertUser(tx, actor, u); err != nil {
			return err
		}
		if password == nil {
			return nil
		}
		return s.setPassword(tx, u.Metadata.Name, hash)
	})
}

// CreateInvited adds u and an invite for its first password, or neither.
// It refuses like CreateUser and Invite.
func (s *Service) CreateInvited(ctx context.Context, actor string, u resource.User, ttl time.Duration) (Invite, error) {
	u, err := checkUser(u)
	if err != nil {
		return Invite{}, err
	}
	var made Invite
	err = s.db.Write(ctx, func(tx *store.Tx) (err error) {
		if err := s.insertUser(tx, actor, u); err != nil {
			return err
		}
		made, err = s.invite(tx, actor, u.Metadata.Name, ttl)
		return err
	})
	return made, err
}

func (s *Service) insertUser(tx *store.Tx, actor string, u resource.User) error {
	now := s.now()
	u.Spec.CreatedBy.Time, u.Spec.CreatedBy.User.Name = now.UTC(), actor
	if _, _, err := read(tx, u.Metadata.Name); err == nil {
		return api.Refuse(connect.CodeAlreadyExists, "user %q already exists", u.Metadata.Name)
	} else if !notFound(err) {
		return err
	}
	if err := s.checkRoles(tx, u); err != nil {
		return err
	}
	document, err := json.Marshal(u)
	if err != nil {
		return fmt.Errorf("login: %w", err)
	}
	if _, err := tx.Exec(`INSERT INTO users (name, document, revision, created_at) VALUES ($1, $2, 1, $3)`,
		u.Metadata.Name, string(document), store.Micros(now)); err != nil {
		return err
	}
	return s.record(tx, event.UserCreate, actor, u)
}

// GetUser returns a user with its revision, or refuses (CodeNotFound).
func (s *Service) GetUser(tx *store.Tx, name string) (resource.User, error) {
	u, _, err := read(tx, name)
	return u, err
}

// ListUsers returns all users by name.
func (s *Service) ListUsers(tx *store.Tx) ([]resource.User, error) {
	rows, err := tx.Query(`SELECT document, revision FROM users`)
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // Err is checked
	var users []resource.User
	for rows.Next() {
		var document string
		var revision int64
		if err := rows.Scan(&document, &revision); err != nil {
			return nil, fmt.Errorf("login: %w", err)
		}
		u, err := decode(document, revision)
		if err != nil {
			return nil, err
		}
		users = append(users, u)
	}
	// Not by the database, whose order depends on its locale.
	slices.SortFunc(users, func(a, b resource.User) int { return strings.Compare(a.Metadata.Name, b.Metadata.Name) })
	return users, rows.Err()
}

// Count tells how many users there are.
func (s *Service) Count(tx *store.Tx) (n int64, err error) {
	if err := tx.QueryRow(`SELECT count(*) FROM users`).Scan(&n); err != nil {
		return 0, fmt.Errorf("login: %w", err)
	}
	return n, nil
}

// UpdateUser replaces a user's document. Where revision (or, if that is
// empty, the document's own) is not empty, it must be the stored one
// (CodeAborted). inTx, where not nil, runs in the same transaction, after it.
func (s *Service) UpdateUser(ctx context.Context, actor string, u resource.User, revision string, inTx func(tx *store.Tx) error) error {
	if revision == "" {
		revision = u.Metadata.Revision
	}
	u, err := checkUser(u)
	if err != nil {
		return err
	}
	return s.db.Write(ctx, func(tx *store.Tx) error {
		old, number, err := read(tx, u.Metadata.Name)
		if err != nil {
			return err
		}
		if revision != "" && revision != old.Metadata.Revision {
			return api.Refuse(connect.CodeAborted, "user %q was changed by somebody else meanwhile", u.Metadata.Name).
				WithHint("Read it again and repeat your change")
		}
		if err := s.checkRoles(tx, u); err != nil {
			return err
		}
		u.Spec.CreatedBy = old.Spec.CreatedBy
		document, err := json.Marshal(u)
		if err != nil {
			return fmt.Errorf("login: %w", err)
		}
		if _, err := tx.Exec(`UPDATE users SET document = $1, revision = $2 WHERE name = $3`,
			string(document), number+1, u.Metadata.Name); err != nil {
			return err
		}
		tx.Changed()
		if err := s.record(tx, event.UserUpdate, actor, u, changesOf(old, u)...); err != nil {
			return err
		}
		return also(tx, inTx)
	})
}

// changesOf says what a person may do more or less from then on; of traits
// that only roles give a meaning to, their names.
func changesOf(old, u resource.User) (changes []string) {
	list := func(name string, a, b []string) {
		if !slices.Equal(a, b) {
			changes = append(changes, fmt.Sprintf("%s: %s → %s", name, strings.Join(a, ","), strings.Join(b, ",")))
		}
	}
	list("roles", old.Spec.Roles, u.Spec.Roles)
	list(traitLogins, old.Spec.Traits[traitLogins], u.Spec.Traits[traitLogins])
	others := map[string]bool{}
	for _, traits := range []map[string][]string{old.Spec.Traits, u.Spec.Traits} {
		for name := range traits {
			others[name] = name != traitLogins && !slices.Equal(old.Spec.Traits[name], u.Spec.Traits[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(others)) {
		if others[name] {
			changes = append(changes, "trait "+name)
		}
	}
	return changes
}

// traitLogins holds what accounts a person may use on servers.
const traitLogins = "logins"

// DeleteUser removes a user with password, invites and logins, or refuses
// (CodeNotFound). inTx, where not nil, runs in the same transaction, after it.
func (s *Service) DeleteUser(ctx context.Context, actor, name string, inTx func(tx *store.Tx) error) error {
	return s.db.Write(ctx, func(tx *store.Tx) error {
		u, _, err := read(tx, name)
		if err != nil {
			return err
		}
		// The other tables follow by ON DELETE CASCADE.
		if _, err := tx.Exec(`DELETE FROM users WHERE name = $1`, name); err != nil {
			return err
		}
		tx.Changed()
		if err := s.record(tx, event.UserDelete, actor, u); err != nil {
			return err
		}
		return also(tx, inTx)
	})
}

func also(tx *store.Tx, inTx func(tx *store.Tx) error) error {
	if inTx == nil {
		return nil
	}
	return inTx(tx)
}

// read returns a user and the number of its revision.
func read(tx *store.Tx, name string) (resource.User, int64, error) {
	refuse := api.Refuse(connect.CodeNotFound, "user %.160q does not exist", name).
		WithHint("dtctl users ls shows the users")
	if strings.ContainsRune(name, 0) || strings.ToValidUTF8(name, "") != name {
		return resource.User{}, 0, refuse // PostgreSQL would not take it
	}
	var document string
	var revision int64
	err := tx.QueryRow(`SELECT document, revision FROM users WHERE name = $1`, name).Scan(&document, &revision)
	if errors.Is(err, sql.ErrNoRows) {
		return resource.User{}, 0, refuse
	}
	if err != nil {
		return resource.User{}, 0, fmt.Errorf("login: %w", err)
	}
	u, err := decode(document, revision)
	return u, revision, err
}

func decode(document string, revision int64) (resource.User, error) {
	var u resource.User
	if err := json.Unmarshal([]byte(document), &u); err != nil {
		return resource.User{}, fmt.Errorf("login: a stored user: %w", err)
	}
	u.Metadata.Revision = strconv.FormatInt(revision, 10)
	return u, nil
}

func notFound(err error) bool {
	var r *api.Refusal
	return errors.As(err, &r) && r.Code == connect.CodeNotFound
}
