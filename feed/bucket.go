package feed

import (
	"hash/fnv"
	"maps"
	"slices"
)

// hash spreads names; it need not resist anybody: who may make many roles of
// one bucket only makes that bucket longer.
func hash(name string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return int(h.Sum32() >> 1)
}

func roleBucket(name string) int                { return firstRole + hash(name)%roleBuckets }
func lockBucket(name string) int                { return firstLock + hash(name)%lockBuckets }
func revokedBucket(page uint64) int             { return firstRevoked + int(page%revBuckets) }
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
