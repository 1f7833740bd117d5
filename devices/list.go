package devices

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/resource"
	"devicetrust/store"
)

// Filter says which devices are listed; the zero value is all of them.
type Filter struct {
	// OSType is linux, macos or windows; EnrollStatus enrolled or not_enrolled.
	OSType, EnrollStatus string
	// Owner is who enrolled it, or is listed in its owners.
	Owner string
	// Source is the name of where the registration came from.
	Source string
	// AssetTagPrefix is what the tag begins with.
	AssetTagPrefix string
	// Attestation is as in resource.Credential.
	Attestation string
	// NotSeenSince takes devices that were last seen before it, or never.
	NotSeenSince time.Time
	// Frozen takes only frozen ones.
	Frozen bool
}

// Page is a part of a list.
type Page struct {
	// Size is how many devices at most; 0 is DefaultPage, and more than MaxPage
	// is MaxPage.
	Size int
	// Token is the Next of the page before; empty for the first.
	Token string
}

// ListPage gives a page of the devices that fit, by asset tag and operating
// system, and the token of the page after it, which is empty where there is
// none. A page may be shorter than its size. Pages are no snapshot: a device
// that is there all the time is listed once, one that comes or goes meanwhile
// once or not at all. A filter or a token that is none is refused
// (CodeInvalidArgument).
func (i *Inventory) ListPage(ctx context.Context, f Filter, p Page) (page []resource.Device, next string, err error) {
	q, err := f.query()
	if err != nil {
		return nil, "", err
	}
	if p.Token != "" {
		last, err := parseKey(p.Token)
		if err != nil {
			return nil, "", err
		}
		q.and(`(asset_tag, os_type) > (%s, %s)`, last.tag, last.os)
	}
	size, err := pageSize(p.Size)
	if err != nil {
		return nil, "", err
	}
	// One more tells whether there is another page.
	where, bytes := q.where()+inOrder+fmt.Sprintf(` LIMIT %d`, size+1), 0
	err = i.db.Read(ctx, func(tx *store.Tx) error {
		return scan(tx, where, q.args, func(d resource.Device, document int) bool {
			if bytes += document; len(page) == size || len(page) > 0 && bytes > maxPageBytes {
				next = keyOf(page[len(page)-1]).token()
				return false
			}
			page = append(page, d)
			return true
		})
	})
	if err != nil {
		return nil, "", err
	}
	return page, next, nil
}

func pageSize(n int) (int, error) {
	switch {
	case n < 0:
		return 0, api.Refuse(connect.CodeInvalidArgument, "a page of %d devices is asked for", n)
	case n == 0:
		return DefaultPage, nil
	}
	return min(n, MaxPage), nil
}

// query is the terms of a WHERE and what stands for their places.
type query struct {
	terms []string
	args  []any
}

// and adds a term in which each %s is one of args.
func (q *query) and(term string, args ...any) {
	places := make([]any, len(args))
	for n := range args {
		places[n] = fmt.Sprintf("$%d", len(q.args)+n+1)
	}
	q.terms, q.args = append(q.terms, fmt.Sprintf(term, places...)), append(q.args, args...)
}

func (q *query) where() string {
	if len(q.terms) == 0 {
		return `1 = 1`
	}
	return strings.Join(q.terms, ` AND `)
}

// query writes the terms of the partial indexes as those have them: an engine
// takes such an index only where it sees that the query asks for no more.
func (f Filter) query() (q query, err error) {
	if err := f.check(); err != nil {
		return q, err
	}
	if f.OSType != "" {
		q.and(`os_type = %s`, f.OSType)
	}
	switch f.EnrollStatus {
	case resource.Enrolled:
		q.and(column(`enroll_status`, f.few()) + ` = 'enrolled'`)
	case resource.NotEnrolled:
		q.and(`enroll_status <> 'enrolled'`)
	}
	if f.Owner != "" {
		q.owner(f.Owner, f.Frozen)
	}
	if f.Source != "" {
		q.and(column(`source`, f.few())+` = %s`, f.Source)
	}
	if f.AssetTagPrefix != "" {
		q.and(`asset_tag >= %s AND asset_tag < %s`, f.AssetTagPrefix, after(f.AssetTagPrefix))
	}
	if f.Attestation != "" {
		q.and(column(`attestation`, f.few())+` = %s AND attestation <> ''`, f.Attestation)
	}
	if !f.NotSeenSince.IsZero() {
		q.and(`last_seen_at < %s`, store.Micros(f.NotSeenSince))
	}
	if f.Frozen {
		q.and(`frozen`)
	}
	return q, nil
}

// owner takes the devices whose logins user may have: those that user enrolled,
// and those that list user.
func (q *query) owner(user string, fewer bool) {
	q.and(`(`+column(`owner`, fewer)+` = %s OR id IN (SELECT device_id FROM device_owners WHERE user_name = %s))`, user, user)
}

// few tells whether f takes only devices of which there are few.
func (f Filter) few() bool { return f.Frozen || f.Owner != "" }

// column is what a term compares. Where another term has an index of fewer
// devices, it is written so that its own is not used: SQLite knows of no index
// how many it has, and would read all devices of a source for the frozen ones.
func column(name string, fewer bool) string {
	if fewer {
		return name + ` || ''`
	}
	return name
}

func (f Filter) check() error {
	if f.OSType != "" {
		if err := checkOS(f.OSType); err != nil {
			return err
		}
	}
	switch f.EnrollStatus {
	case "", resource.Enrolled, resource.NotEnrolled:
	default:
		return api.Refuse(connect.CodeInvalidArgument, "unknown enroll status %.32q: want %s or %s", f.EnrollStatus, resource.Enrolled, resource.NotEnrolled)
	}
	for _, text := range []string{f.Owner, f.Source, f.AssetTagPrefix, f.Attestation} {
		if !isLine(text) {
			return api.Refuse(connect.CodeInvalidArgument, "the filter %.64q is not a line of at most %d bytes", text, maxField)
		}
	}
	return nil
}

// after is the first text that comes after all that begin with prefix, in the
// order of the bytes: tags have ASCII only, so that 0x7f stands behind each.
func after(prefix string) string { return prefix + "\x7f" }

// key is a device's place in the list.
type key struct{ tag, os string }

func keyOf(d resource.Device) key { return key{d.Spec.AssetTag, d.Spec.OSType} }

// token is key for a caller, who needs to know nothing of it. There is no
// space in a tag.
func (k key) token() string {
	return base64.RawURLEncoding.EncodeToString([]byte(k.tag + " " + k.os))
}

func parseKey(token string) (key, error) {
	refused := api.Refuse(connect.CodeInvalidArgument, "the page token %.64q is not one of this cluster", token).
		WithHint("Begin again with the first page")
	if len(token) > maxPageToken {
		return key{}, refused
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil {
		return key{}, refused
	}
	tag, os, _ := strings.Cut(string(text), " ")
	if tag == "" || !isLine(tag) || checkOS(os) != nil {
		return key{}, refused
	}
	return key{tag, os}, nil
}
