package feed

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// A stock sshd's helper loads what the side-car saves, at whatever moment.
func TestWhoLoadsWhileAnotherStateIsSavedGetsOneOfTheTwo(t *testing.T) {
	p := newPlane(t)
	f := File{Path: filepath.Join(t.TempDir(), "state")}
	older := p.tell(nil)
	p.sequence++
	newer := p.tell(older)
	for name, states := range map[string][2]*State{"the store goes on": {older, newer}, "and back to a backup": {newer, older}} {
		var loading sync.WaitGroup
		for range 20 {
			if err := errors.Join(f.Remove(), f.Save(states[0])); err != nil {
				t.Fatal(err)
			}
			saved := make(chan struct{})
			loading.Go(func() {
				for {
					_, err := f.Load(p.authorities(), "test", "n-1")
					if err != nil {
						t.Errorf("%s: change %d is not believed while %d is saved: %v", name, states[0].Sequence(), states[1].Sequence(), err)
						return
					}
					select {
					case <-saved:
						return
					default:
					}
				}
			})
			if err := f.Save(states[1]); err != nil {
				t.Error(err)
			}
			close(saved)
			loading.Wait()
		}
	}
}

// A crash comes after none of the two files, or after the first.
func TestACrashBetweenTheTwoFilesLeavesAStateThatIsBelieved(t *testing.T) {
	p := newPlane(t)
	older := p.tell(nil)
	p.sequence++
	newer := p.tell(older)
	for name, states := range map[string][2]*State{"the store went on": {older, newer}, "and back to a backup": {newer, older}} {
		for _, unwritten := range []string{"", ".newest"} {
			f := File{Path: filepath.Join(t.TempDir(), "state")}
			if err := f.Save(states[0]); err != nil {
				t.Fatal(err)
			}
			// A file does not take the place of a folder.
			path, aside := f.Path+unwritten, f.Path+".aside"
			if err := errors.Join(os.Rename(path, aside), os.Mkdir(path, 0o700)); err != nil {
				t.Fatal(err)
			}
			if err := f.Save(states[1]); err == nil {
				t.Fatalf("%s: it is saved without state%s", name, unwritten)
			}
			if err := errors.Join(os.Remove(path), os.Rename(aside, path)); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Load(p.authorities(), "test", "n-1"); err != nil {
				t.Errorf("%s, and state%s is not written: %v", name, unwritten, err)
			}
		}
	}
}

func TestAnOlderStateThatIsSavedMeanwhileIsBelieved(t *testing.T) {
	p := newPlane(t)
	f := File{Path: filepath.Join(t.TempDir(), "state")}
	older := p.tell(nil)
	if err := f.Save(older); err != nil {
		t.Fatal(err)
	}
	if err := f.checkNewest(older, older.Sequence()+1); err != nil {
		t.Errorf("when it was looked at there was a newer one: %v", err)
	}
	p.sequence++
	if err := f.Save(p.tell(older)); err != nil {
		t.Fatal(err)
	}
	if err := f.checkNewest(older, older.Sequence()+1); err == nil {
		t.Error("the newer one is there yet, and this one is believed")
	}
}
