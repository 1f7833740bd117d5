package assettag_test

import (
	"fmt"

	"devicetrust/devices/assettag"
)

func ExamplePick() {
	tag, ok := assettag.Pick("Default string", "PF2ABCDE\n", "0")
	fmt.Println(tag, ok)
	// Output: PF2ABCDE true
}
