// Asks a service about tokens with Spring Security's own client for it, as a resource server does.
// Arguments: the endpoint, the client's id and secret. Standard input: a token in each line. Standard
// output: for each of them a line, `active` with what Spring understood, or `refused` with why.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.TreeMap;
import org.springframework.security.oauth2.core.OAuth2AuthenticatedPrincipal;
import org.springframework.security.oauth2.server.resource.introspection.BadOpaqueTokenException;
import org.springframework.security.oauth2.server.resource.introspection.OAuth2IntrospectionException;
import org.springframework.security.oauth2.server.resource.introspection.OpaqueTokenIntrospector;
import org.springframework.security.oauth2.server.resource.introspection.SpringOpaqueTokenIntrospector;

public class Introspect {
    public static void main(String[] arguments) throws Exception {
        OpaqueTokenIntrospector introspector = SpringOpaqueTokenIntrospector.withIntrospectionUri(arguments[0])
            .clientId(arguments[1]).clientSecret(arguments[2]).build();
        var tokens = new BufferedReader(new InputStreamReader(System.in));
        for (String token = tokens.readLine(); token != null; token = tokens.readLine()) {
            try {
                OAuth2AuthenticatedPrincipal principal = introspector.introspect(token);
                System.out.println("active " + principal.getName() + " " + principal.getAuthorities() + " "
                    + new TreeMap<>(principal.getAttributes()));
            } catch (BadOpaqueTokenException refused) {
                System.out.println("refused " + refused.getMessage());
            } catch (OAuth2IntrospectionException failed) {
                System.out.println("failed " + failed.getMessage());
            }
        }
    }
}
