package resource_test

import (
	"fmt"

	"devicetrust/resource"
)

func ExampleParseYAML() {
	const text = `kind: role
metadata:
  name: dev
spec:
  allow:
    logins: [root]
    node_labels:
      env: dev
`
	all, err := resource.ParseYAML([]byte(text))
	if err != nil {
		fmt.Println(err)
		return
	}
	doc, err := resource.MarshalJSON(all[0])
	fmt.Println(string(doc), err)

	_, err = resource.ParseYAML([]byte(text + "    kubernetes_groups: [dev]\n"))
	fmt.Println(err)
	// Output:
	// {"kind":"role","version":"v7","metadata":{"name":"dev"},"spec":{"allow":{"logins":["root"],"node_labels":{"env":"dev"}}}} <nil>
	// line 9: field "kubernetes_groups" is not supported in a role (spec.allow)
}
