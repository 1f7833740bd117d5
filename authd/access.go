package authd

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"devicetrust/api/dtv1"
)

// declarations maps each procedure ("/dt.v1.LoginService/Login") to who may
// call it.
type declarations map[string]*dtv1.Access

// declaredAccess reads the access option of every method in package dt.v1.
// A method without one is an error, so that dtauthd does not start with it.
func declaredAccess() (declarations, error) {
	out := declarations{}
	var err error
	protoregistry.GlobalFiles.RangeFilesByPackage("dt.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			service := f.Services().Get(i)
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				procedure := fmt.Sprintf("/%s/%s", service.FullName(), m.Name())
				access, ok := proto.GetExtension(m.Options(), dtv1.E_Access).(*dtv1.Access)
				if err = checkDeclaration(procedure, access, ok); err != nil {
					return false
				}
				out[procedure] = access
			}
		}
		return true
	})
	return out, err
}

func checkDeclaration(procedure string, access *dtv1.Access, ok bool) error {
	if !ok || access.GetWho() == dtv1.Access_WHO_UNSPECIFIED {
		return fmt.Errorf("authd: %s does not declare who may call it", procedure)
	}
	if access.GetWho() == dtv1.Access_WHO_RULE && len(access.GetVerbs()) == 0 {
		return fmt.Errorf("authd: %s asks for a rule without verbs", procedure)
	}
	return nil
}
