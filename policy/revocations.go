package policy

import (
	"cmp"
	"fmt"
	"slices"
)

// RevocationPage is how many serials a page of Revocations is about: page n
// has those from n times as many on.
const RevocationPage = 1 << revocationPageBits

const revocationPageBits = 12

// Revocation is of the serials from First to Last, for one Reason.
type Revocation struct {
	First, Last uint64
	Reason      string
}

// Revocations are the certificates that are revoked. The zero value is none.
// It may be shared as long as nobody adds to it.
type Revocations struct {
	pages map[uint64][]Revocation // each ascending and apart
}

// NewRevocations refuses ranges that are no ranges, or overlap.
func NewRevocations(ranges ...Revocation) (Revocations, error) {
	pages := map[uint64][]Revocation{}
	for _, r := range ranges {
		if r.First > r.Last {
			return Revocations{}, fmt.Errorf("revoked serials from %d to %d are none", r.First, r.Last)
		}
		for page := r.First >> revocationPageBits; page <= r.Last>>revocationPageBits; page++ {
			part := r
			part.First = max(r.First, page<<revocationPageBits)
			part.Last = min(r.Last, page<<revocationPageBits|(RevocationPage-1))
			pages[page] = append(pages[page], part)
		}
	}
	out := Revocations{pages: make(map[uint64][]Revocation, len(pages))}
	for page, part := range pages {
		slices.SortFunc(part, func(a, b Revocation) int { return cmp.Compare(a.First, b.First) })
		if err := out.AddPage(page, part); err != nil {
			return Revocations{}, err
		}
	}
	return out, nil
}

// RevokedOnly is the revocation of one certificate.
func RevokedOnly(serial uint64, reason string) Revocations {
	return Revocations{pages: map[uint64][]Revocation{serial >> revocationPageBits: {{serial, serial, reason}}}}
}

// AddPage takes the ranges of a page that is not there yet, ascending and apart
// from each other; nobody may change them afterwards.
func (r *Revocations) AddPage(page uint64, ranges []Revocation) error {
	if _, twice := r.pages[page]; twice {
		return fmt.Errorf("page %d of the revoked serials is there twice", page)
	}
	for i, one := range ranges {
		if one.First > one.Last || one.First>>revocationPageBits != page || one.Last>>revocationPageBits != page {
			return fmt.Errorf("revoked serials from %d to %d are none of page %d", one.First, one.Last, page)
		}
		if i > 0 && one.First <= ranges[i-1].Last {
			return fmt.Errorf("revoked serials from %d to %d are not after those before them", one.First, one.Last)
		}
	}
	if r.pages == nil {
		r.pages = map[uint64][]Revocation{}
	}
	r.pages[page] = ranges
	return nil
}

// Find gives the revocation of a serial, where it is revoked.
func (r Revocations) Find(serial uint64) (Revocation, bool) {
	page := r.pages[serial>>revocationPageBits]
	// The first that begins after it.
	low, high := 0, len(page)
	for low < high {
		middle := int(uint(low+high) >> 1)
		if page[middle].First <= serial {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low == 0 || page[low-1].Last < serial {
		return Revocation{}, false
	}
	return page[low-1], true
}

// All are the revocations in ascending order, as they lie in their pages.
func (r Revocations) All() []Revocation {
	var all []Revocation
	for _, page := range r.pages {
		all = append(all, page...)
	}
	slices.SortFunc(all, func(a, b Revocation) int { return cmp.Compare(a.First, b.First) })
	return all
}

// reason is the sentence for whoever has certificate serial.
func (r *Revocation) reason(serial uint64) string {
	text := fmt.Sprintf("certificate %d has been revoked", serial)
	if r.Reason != "" {
		text += ": " + r.Reason
	}
	return text
}
