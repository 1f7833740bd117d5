package feed

import (
	"fmt"
	"testing"

	"devicetrust/policy"
)

// BenchmarkOneLock is what one more lock costs a server, with 5,000 roles and
// 5,000 locks: what it is told is verified and made into what it decides by.
func BenchmarkOneLock(b *testing.B) {
	p := newPlane(b)
	for i := range 5000 {
		p.role(fmt.Sprintf("role-%d", i), "root")
		p.content.Locks = append(p.content.Locks, policy.Lock{Name: fmt.Sprintf("lock-%d", i), Target: policy.LockTarget{User: fmt.Sprintf("user-%d", i)}})
	}
	before := p.tell(nil)
	seen, err := before.View(nil)
	if err != nil {
		b.Fatal(err)
	}
	has, err := ParseHas(before.Request())
	if err != nil {
		b.Fatal(err)
	}
	p.sequence++
	p.content.Locks = append(p.content.Locks, policy.Lock{Name: "one-more", Target: policy.LockTarget{User: "bob"}})
	u := p.statement().Update(&has, nil)
	for b.Loop() {
		after, err := before.Apply(u, "test", "n-1")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := after.View(seen); err != nil {
			b.Fatal(err)
		}
	}
}
